"""The OpenVINO engine under bad will: far too many jobs, callers who leave, a pipe that is full, starts that fail."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time

import pytest
from tiny_model import open_engine
from waiting import Recording

from served_model.text_generation import openvino_engine
from served_model.text_generation.errors import EngineFailed
from served_model.text_generation.sampling import Sampling

pytestmark = pytest.mark.slow


MANY = 20_000
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.delenv("ENGINE", raising=False)
    monkeypatch.setenv("THREADS", "1")


@pytest.fixture
def engine(tiny_gpt2, tiny_ir):
    engine = open_engine("openvino", tiny_gpt2, tiny_ir)
    yield engine
    engine.close()


def pid_of(engine) -> int:
    return engine.describe()["process"]


def submit(engine, waiting, count: int, sampling: Sampling, **how) -> list:
    jobs = [waiting.job([9, 8, 7], sampling, **how) for _ in range(count)]
    for job in jobs:
        engine.submit(job)
    return jobs


def test_many_jobs_are_handed_in_while_the_process_reads_nothing(engine, waiting):
    """Before, the caller stood still once the socket was full: after some 1,500 jobs, for ever."""
    os.kill(pid_of(engine), signal.SIGSTOP)
    try:
        started = time.monotonic()
        jobs = submit(engine, waiting, MANY, Sampling(max_new_tokens=2), group=1)
        assert time.monotonic() - started < 10
    finally:
        os.kill(pid_of(engine), signal.SIGCONT)
    engine.cancel(jobs)
    waiting.until(lambda: all(job.is_over for job in jobs), 30)


def test_a_group_is_cancelled_with_one_message(engine, waiting, monkeypatch):
    outbox = Recording(engine._process._outbox)
    jobs = submit(engine, waiting, MANY, Sampling(max_new_tokens=200, timeout_s=600), group=1)
    monkeypatch.setattr(engine._process, "_outbox", outbox)
    engine.cancel(jobs)
    engine.cancel(jobs)
    waiting.until(lambda: all(job.is_over for job in jobs), 30)
    assert len(outbox.sent) == 1
    assert engine.load().cancelled == len(outbox.sent[0]["cancel"])
    assert submit(engine, waiting, 1, Sampling(max_new_tokens=1))


def test_many_deadlines_at_once_are_kept_in_time(engine, waiting):
    """Each expired job was looked for among all that wait: minutes of a still engine for 20,000."""
    jobs = submit(engine, waiting, MANY, Sampling(max_new_tokens=250, timeout_s=3.0), group=1)
    waiting.until(lambda: all(job.is_over for job in jobs), 15)
    assert {job.ended.finish_reason for job in jobs} >= {"timeout"}
    (after,) = submit(engine, waiting, 1, Sampling(max_new_tokens=1))
    waiting.until(lambda: after.is_over, 5)


@pytest.mark.parametrize("calls", [1, 4])
def test_one_question_is_answered_while_calls_of_many_rows_wait(engine, waiting, calls):
    """Four calls took all places of the batch: a fifth caller waited for the longest of their answers."""
    rows = [
        waiting.job([9] * 150, Sampling(max_new_tokens=100, timeout_s=600), group=call)
        for call in range(1, calls + 1)
        for _ in range(600)
    ]
    for job in rows:
        engine.submit(job)
    waiting.until(lambda: engine.load().running > 40)
    (one,) = submit(engine, waiting, 1, Sampling(max_new_tokens=5))
    steps_before = max(len(job.token_ids) for job in rows)
    waiting.until(lambda: one.is_over)
    assert one.ended.finish_reason == "length"
    finished = sum(job.is_over for job in rows)
    assert finished < 48, f"{finished} rows were answered first, after {steps_before} steps"
    engine.cancel(rows)


@pytest.mark.parametrize("fault", ["no memory", "no file", "no such worker"])
def test_a_restart_that_fails_is_an_error_for_every_caller_and_then_the_end(
    engine, waiting, monkeypatch, fault, tmp_path
):
    """An OSError ended the reading thread: callers were told "started afresh" for ever."""

    def no_memory(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    if fault == "no memory":
        monkeypatch.setattr(subprocess, "Popen", no_memory)
    elif fault == "no file":
        monkeypatch.setattr(openvino_engine.tempfile, "TemporaryFile", no_memory)
    else:
        monkeypatch.setattr(openvino_engine, "WORKER", tmp_path / "gone.py")
    jobs = submit(engine, waiting, 100, Sampling(max_new_tokens=200), group=1)
    os.kill(pid_of(engine), signal.SIGKILL)
    waiting.until(lambda: all(job.is_over for job in jobs))
    assert all(isinstance(job.error, EngineFailed) for job in jobs)
    waiting.until(engine.failure, 10)
    assert not engine.is_healthy()
    with pytest.raises(EngineFailed, match="failed 3 times in a row"):
        engine.submit(waiting.job([5], Sampling()))


def test_what_cannot_be_read_ends_the_engine_and_strands_nobody(engine, waiting, monkeypatch):
    def broken(message):
        raise ValueError("half a message")

    jobs = submit(engine, waiting, 10, Sampling(max_new_tokens=200))
    monkeypatch.setattr(engine._process, "_take", broken)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    waiting.until(lambda: all(job.is_over for job in jobs))
    assert "cannot be read" in engine.failure()


def test_killed_ten_times_it_answers_again(engine, waiting):
    for _ in range(10):
        (job,) = submit(engine, waiting, 1, Sampling(max_new_tokens=3))
        waiting.until(lambda job=job: job.is_over)
        assert job.error is None
        jobs = submit(engine, waiting, 50, Sampling(max_new_tokens=200))
        os.kill(pid_of(engine), signal.SIGKILL)
        waiting.until(lambda jobs=jobs: all(job.is_over for job in jobs))
        waiting.until(engine.is_healthy)
    assert engine.load().restarts == 10
