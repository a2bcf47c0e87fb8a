"""The OpenVINO engine's process: started, watched, restarted after a crash, and ended with its model."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from tiny_model import open_engine
from waiting import Recording

from served_model.text_generation import openvino_engine, openvino_worker
from served_model.text_generation.checkpoint import read_limits
from served_model.text_generation.engine import Job
from served_model.text_generation.errors import EngineFailed
from served_model.text_generation.openvino_engine import WORKER, OpenVINOEngine
from served_model.text_generation.sampling import Sampling

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def opened(tiny_gpt2, tiny_ir):
    """Engines that are closed at the end, whatever happens to them."""
    engines = []

    def open_one():
        engines.append(open_engine("openvino", tiny_gpt2, tiny_ir))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def engine(opened):
    return opened()


def answered(engine, prompt, **params) -> list[int]:
    news = threading.Event()
    job = Job(prompt, Sampling(**params), news.set)
    engine.submit(job)
    assert news.wait(20)
    job.check_alive()
    return job.token_ids


def pid_of(engine) -> int:
    return engine.describe()["process"]


def is_alive(pid: int) -> bool:
    """A zombie does not count: its parent has not been told yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- memory ---------------------------------------------------------------------------------------


def resident_kib(pid: int, name: str) -> int:
    """Of the files of this name that the process has mapped."""
    lines = iter(Path(f"/proc/{pid}/smaps").read_text().splitlines())
    of_file = [line for line in lines if line.endswith(name) for line in lines if line.startswith("Rss:")][:1]
    return sum(int(line.split()[1]) for line in of_file)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_after_the_first_answer_the_file_of_the_weights_takes_no_memory(opened):
    engine = opened()
    assert resident_kib(pid_of(engine), "openvino_model.bin") > 0, "it is mapped while the model is read"
    first = answered(engine, [9, 8, 7], max_new_tokens=8)
    deadline = time.monotonic() + 10
    while resident_kib(pid_of(engine), "openvino_model.bin") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert resident_kib(pid_of(engine), "openvino_model.bin") == 0
    assert answered(engine, [9, 8, 7], max_new_tokens=8) == first


# --- what it tells of its load ---------------------------------------------------------------------


def test_the_taken_share_of_the_cache_is_told_while_there_is_work(engine, waiting):
    job = waiting.job([9, 8, 7], Sampling(max_new_tokens=240))
    engine.submit(job)
    seen = 0.0
    while not job.is_over:
        seen = max(seen, engine.load().cache_usage)
    waiting.until(lambda: engine.load().running == 0)
    assert 0 < seen <= 1 and engine.load().cache_usage == 0


def test_the_cache_is_no_larger_than_the_fullest_batch_needs(engine):
    """The tiny model's: 1 layer, 2 heads of 16, 256 tokens, so 5 MB; these answers would touch 26 of a gigabyte."""
    answered_together(engine, 64, max_new_tokens=200)
    resident_kb = int(Path(f"/proc/{pid_of(engine)}/statm").read_text().split()[1]) * 4
    for _ in range(8):
        answered_together(engine, 64, max_new_tokens=200)
    grown_kb = int(Path(f"/proc/{pid_of(engine)}/statm").read_text().split()[1]) * 4 - resident_kb
    assert grown_kb < 12_000


def answered_together(engine, count: int, **params) -> None:
    news = threading.Event()
    jobs = [Job([9, 8, 7 + i % 50], Sampling(**params), news.set) for i in range(count)]
    for job in jobs:
        engine.submit(job)
    while not all(job.is_over for job in jobs):
        assert news.wait(30)
        news.clear()


def test_a_job_knows_how_long_it_waited_for_its_place(opened, waiting):
    engine = opened()
    jobs = [waiting.job([9, 8, 7], Sampling(max_new_tokens=60)) for _ in range(openvino_worker_places() + 1)]
    for job in jobs:
        engine.submit(job)
    waiting.until(lambda: all(job.is_over for job in jobs))
    first, last = jobs[0], max(jobs, key=lambda job: job.queued_s)
    assert first.queued_s < first.first_token_s
    assert last.queued_s > min(job.ended.total_s for job in jobs) * 0.9  # it came in when another one left
    engine.close()


def openvino_worker_places() -> int:
    """MAX_RUNNING of the worker, which is a program of its own."""
    return int(re.search(r"^MAX_RUNNING = (\d+)", WORKER.read_text(), re.M)[1])


# --- crashes --------------------------------------------------------------------------------------


def test_a_killed_process_fails_the_callers_and_is_restarted(engine, waiting):
    expected, pid = answered(engine, [9, 8, 7], max_new_tokens=200), pid_of(engine)
    jobs = [waiting.job([9, 8, 7], Sampling(max_new_tokens=240)) for _ in range(100)]
    for job in jobs:
        engine.submit(job)
    waiting.until(lambda: jobs[0].token_ids)
    os.kill(pid, signal.SIGKILL)
    waiting.until(lambda: all(job.is_over for job in jobs))
    killed = [job for job in jobs if job.ended is None]  # on a busy machine the first may have ended before
    assert len(killed) > len(jobs) // 2
    for job in killed:
        with pytest.raises(EngineFailed, match=r"ended under the request \(killed by signal 9.*may be sent again"):
            job.check_alive()
    assert not engine.is_healthy()
    with pytest.raises(EngineFailed, match="being restarted"):
        engine.submit(waiting.job([5], Sampling()))
    waiting.until(engine.is_healthy)
    assert pid_of(engine) != pid
    load = engine.load()
    assert (load.running, load.waiting, load.restarts) == (0, 0, 1)
    assert answered(engine, [9, 8, 7], max_new_tokens=200) == expected


def test_a_text_that_is_being_scored_fails_too(opened, waiting):
    engine, failed = opened(), []

    def score():
        try:
            engine.log_likelihoods([[5] * 100] * 2000, [[6] * 100] * 2000)
        except EngineFailed as exc:
            failed.append(exc.message)

    thread = threading.Thread(target=score)
    thread.start()
    waiting.until(lambda: engine.load().running)
    os.kill(pid_of(engine), signal.SIGKILL)
    thread.join(20)
    engine.close()
    assert len(failed) == 1
    assert "ended" in failed[0] or "restarted" in failed[0]  # the rows may not all have been handed in


@pytest.fixture
def without_a_start(opened, waiting):
    """An engine that has crashed three times, each start taking a second."""
    engine = opened()
    for times in range(1, 4):
        os.kill(pid_of(engine), signal.SIGKILL)
        waiting.until(lambda: not engine.is_healthy())
        if times < 3:
            waiting.until(engine.is_healthy)
    return engine


def test_three_crashes_in_a_row_keep_it_down(without_a_start, waiting):
    engine = without_a_start
    time.sleep(0.5)  # a fourth process would be there by now, or soon
    assert not engine.is_healthy()
    assert engine.load().restarts == 2
    assert not is_alive(pid_of(engine))
    with pytest.raises(EngineFailed) as refused:
        engine.submit(waiting.job([5], Sampling()))
    engine.close()
    assert refused.value.message == engine.failure() == "The engine failed 3 times in a row."


def test_crashes_after_a_while_do_not(opened, waiting, monkeypatch):
    monkeypatch.setattr(openvino_engine, "STEADY_S", 0.0)
    engine = opened()
    for times in range(1, 5):
        os.kill(pid_of(engine), signal.SIGKILL)
        waiting.until(lambda times=times: engine.is_healthy() and engine.load().restarts == times)
    assert answered(engine, [5], max_new_tokens=2)
    engine.close()


def test_crashes_after_an_answer_do_not(opened, waiting):
    engine = opened()
    for times in range(1, 5):
        assert answered(engine, [5], max_new_tokens=2)
        os.kill(pid_of(engine), signal.SIGKILL)
        waiting.until(lambda times=times: engine.is_healthy() and engine.load().restarts == times)
    assert engine.failure() == ""
    engine.close()


def test_a_process_that_hangs_is_killed_and_restarted(opened, waiting, monkeypatch):
    monkeypatch.setattr(openvino_engine, "WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(openvino_engine, "STALLED_AFTER_S", 0.3)
    engine = opened()
    os.kill(pid_of(engine), signal.SIGSTOP)
    job = waiting.job([5], Sampling(timeout_s=0.1))
    engine.submit(job)
    waiting.until(lambda: job.is_over, 5)
    with pytest.raises(EngineFailed, match="killed by signal 9"):
        job.check_alive()
    waiting.until(engine.is_healthy)
    assert answered(engine, [5], max_new_tokens=2)
    engine.close()


def test_closing_while_it_is_restarted_leaves_no_process(opened, waiting, monkeypatch):
    """The crash is noticed, close() comes, and only then the new process would be made."""
    engine = opened()
    spawn, closed = engine._process._spawn, threading.Event()
    monkeypatch.setattr(engine._process, "_spawn", lambda: closed.wait(5) and spawn())
    os.kill(pid_of(engine), signal.SIGKILL)
    waiting.until(lambda: not engine.is_healthy())
    engine.close()
    closed.set()
    end, gone_since = time.monotonic() + 20, time.monotonic()
    while time.monotonic() < min(end, gone_since + 2):  # no process for two seconds
        gone_since = time.monotonic() if is_alive(pid_of(engine)) else gone_since
        time.sleep(0.02)
    alive = is_alive(pid_of(engine))
    if alive:
        os.kill(pid_of(engine), signal.SIGKILL)
    assert not (engine.is_healthy() or alive)


def test_no_question_can_end_the_process(opened, waiting):
    engine = opened()
    neighbour = waiting.job([9, 8, 7], Sampling(max_new_tokens=100))
    engine.submit(neighbour)
    answered(engine, [5], temperature=1.0, top_k=1_000_000, top_p=0.001, max_new_tokens=2)
    with pytest.raises(MlflowException, match="top_k is"):
        Sampling(temperature=1.0, top_k=2**70)
    waiting.until(lambda: neighbour.is_over)
    restarts = engine.load().restarts
    engine.close()
    assert (neighbour.error, restarts) == (None, 0)


# --- starting -------------------------------------------------------------------------------------


def test_a_converted_model_that_is_cut_short_says_so(tiny_gpt2, tiny_ir, tmp_path):
    broken = shutil.copytree(tiny_ir, tmp_path / "ir")
    weights = broken / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    before = set(threading.enumerate())
    with pytest.raises(EngineFailed, match=r"The OpenVINO engine could not start: exit code 1; \S+"):
        open_engine("openvino", tiny_gpt2, broken)
    assert set(threading.enumerate()) <= before


def test_a_converted_model_that_is_not_there_says_so(tiny_gpt2, tmp_path):
    with pytest.raises(EngineFailed, match="could not start"):
        open_engine("openvino", tiny_gpt2, tmp_path)


def test_a_start_that_takes_too_long_is_given_up(tiny_gpt2, tiny_ir, monkeypatch):
    monkeypatch.setattr(openvino_engine, "START_TIMEOUT_S", 0.01)
    monkeypatch.setattr(openvino_engine, "STOP_TIMEOUT_S", 0.01)
    with pytest.raises(EngineFailed, match="was not ready within 0 s"):
        open_engine("openvino", tiny_gpt2, tiny_ir)


def test_int8_weights_have_an_8_bit_cache(tiny_gpt2, tiny_ir):
    engine = OpenVINOEngine(tiny_ir, read_limits(tiny_gpt2), 1, "int8")
    try:
        assert engine._process._settings["kv_cache_precision"] == "u8"
        assert engine.describe()["precision"] == "int8"
        assert len(answered(engine, [5], max_new_tokens=3)) == 3
    finally:
        engine.close()


# --- the process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_the_process_asks_for_large_pages_unless_it_was_told(monkeypatch, given, made):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    assert openvino_engine.worker_environment() == {**os.environ, "GLIBC_TUNABLES": made}


def test_the_process_gets_that_environment(engine):
    assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in Path(f"/proc/{pid_of(engine)}/environ").read_bytes()


def test_the_process_has_neither_torch_nor_transformers(engine):
    answered(engine, [5], max_new_tokens=2)
    maps = Path(f"/proc/{pid_of(engine)}/maps").read_text()
    assert "openvino" in maps
    assert "torch" not in maps
    assert "tokenizers.abi3" not in maps
    script = f"import runpy, sys; runpy.run_path({str(WORKER)!r}, run_name='worker'); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-B", "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "openvino_genai" in loaded
    assert not {"torch", "transformers", "tokenizers", "mlflow", "pandas", "served_model"} & loaded


def test_ids_that_do_not_fit_never_reach_the_process(engine, monkeypatch, waiting):
    outbox = Recording(engine._process._outbox)
    monkeypatch.setattr(engine._process, "_outbox", outbox)
    for ids in ([], [-1], [10**6], [5] * 257):
        with pytest.raises(Exception, match="prompt|vocabulary"):
            engine.submit(waiting.job(ids, Sampling()))
    assert outbox.sent == []
    answered(engine, [5], max_new_tokens=1)
    assert len(outbox.sent) == 1


def test_nothing_of_a_job_is_left_behind(engine, waiting):
    jobs = [waiting.job([9], Sampling(max_new_tokens=n)) for n in range(1, 30)]
    for job in jobs:
        engine.submit(job)
    jobs[-1].cancel()
    waiting.until(lambda: all(job.is_over for job in jobs))
    waiting.until(lambda: not engine.load().running)
    assert engine._process._jobs == {}


def test_dropping_the_engine_ends_its_process(opened, tiny_gpt2, tiny_ir, waiting):
    engine = open_engine("openvino", tiny_gpt2, tiny_ir)
    answered(engine, [5], max_new_tokens=2)
    pid = pid_of(engine)
    assert is_alive(pid)
    del engine
    gc.collect()
    waiting.until(lambda: not is_alive(pid), 5)


def test_closing_ends_the_process_and_its_threads(tiny_gpt2, tiny_ir, waiting, monkeypatch):
    monkeypatch.setattr(openvino_engine, "WATCH_EVERY_S", 0.1)
    before = set(threading.enumerate())
    engine = open_engine("openvino", tiny_gpt2, tiny_ir)
    assert len(set(threading.enumerate()) - before) == 3
    engine.close()
    assert not is_alive(pid_of(engine))
    waiting.until(lambda: set(threading.enumerate()) <= before, 5)


EXITING = """
import os, signal, sys, threading
from pathlib import Path
from served_model.text_generation.checkpoint import read_limits
from served_model.text_generation.engine import Job
from served_model.text_generation.openvino_engine import OpenVINOEngine
from served_model.text_generation.sampling import Sampling

folder, ir, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
engine = OpenVINOEngine(ir, read_limits(folder), 1, "fp32")
begun = threading.Event()
engine.submit(Job([5], Sampling(max_new_tokens=240), begun.set, each_token=True))
begun.wait()
print(engine.describe()["process"], flush=True)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "error":
    raise RuntimeError("on purpose")
"""


@pytest.mark.parametrize(("how", "code"), [("error", 1), ("killed", -9)])
def test_the_end_of_the_interpreter_ends_the_process(tiny_gpt2, tiny_ir, waiting, how, code):
    command = [sys.executable, "-c", EXITING, str(tiny_gpt2), str(tiny_ir), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=REPO)
    assert done.returncode == code, done.stderr
    waiting.until(lambda: not is_alive(int(done.stdout)), 5)
    assert "Exception ignored" not in done.stderr
    assert "Fatal" not in done.stderr


# --- what the computing process is told -----------------------------------------------------------


def pipeline_of(engine, monkeypatch) -> tuple[object, dict]:
    """The scheduler and the properties with which the worker opens its pipeline for this engine."""
    opened = []
    pipeline = lambda ir, scheduler, device, properties: opened.append((scheduler, properties))  # noqa: E731
    monkeypatch.setattr(openvino_worker.genai, "ContinuousBatchingPipeline", pipeline)
    openvino_worker.open_pipeline(engine._process._settings)
    return opened[0]


def test_the_pipeline_computes_on_the_threads_of_the_engine(tiny_gpt2, tiny_ir, monkeypatch):
    for threads in (1, 3):
        engine = OpenVINOEngine(tiny_ir, read_limits(tiny_gpt2), threads, "fp32")
        engine.close()
        _, properties = pipeline_of(engine, monkeypatch)
        assert properties["INFERENCE_NUM_THREADS"] == threads == engine.threads


def test_no_answer_is_made_from_another_ones_cache(engine, monkeypatch):
    """With prefix caching an answer may depend on what was asked before."""
    scheduler, _ = pipeline_of(engine, monkeypatch)
    assert scheduler.enable_prefix_caching is False
