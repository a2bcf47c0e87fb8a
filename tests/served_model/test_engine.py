"""What both engines promise: transformers' own tokens, fair turns, refusals, an end to what nobody wants."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from tiny_model import open_engine, transformers_greedy

from served_model.text_generation.checkpoint import Limits, read_limits
from served_model.text_generation.engine import Job, check_ids, most_new_tokens
from served_model.text_generation.errors import EngineFailed
from served_model.text_generation.sampling import Sampling

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def engine(endless):
    return endless.engine


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """200 prompts of random ids, of 12 lengths, from one token to nearly the window."""
    draw = random.Random(0)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 240]
    return [[draw.randrange(1, 300) for _ in range(lengths[i % len(lengths)])] for i in range(200)]


@pytest.fixture(scope="module")
def expected(tiny_gpt2, prompts) -> list[list[int]]:
    return transformers_greedy(tiny_gpt2, prompts, NEW_TOKENS)


def handed_in(engine, waiting, prompts, **params) -> list[Job]:
    jobs = [waiting.job(prompt, Sampling(**params), group=7 if len(prompts) > 1 else 0) for prompt in prompts]
    for job in jobs:
        engine.submit(job)
    return jobs


def is_idle(engine) -> bool:
    return engine.load().running == engine.load().waiting == 0


# --- transformers' own tokens ---------------------------------------------------------------------


def test_200_prompts_at_once_get_the_tokens_of_transformers(engine, waiting, prompts, expected):
    jobs = handed_in(engine, waiting, prompts, max_new_tokens=NEW_TOKENS)
    waiting.until(lambda: all(job.is_over for job in jobs))
    assert [job.token_ids for job in jobs] == expected
    assert {job.ended.finish_reason for job in jobs} <= {"stop", "length"}


def test_20_prompts_alone_get_the_tokens_of_transformers(engine, waiting, prompts, expected):
    for prompt, tokens in list(zip(prompts, expected, strict=True))[:20]:
        (job,) = handed_in(engine, waiting, [prompt], max_new_tokens=NEW_TOKENS)
        waiting.until(lambda job=job: job.is_over)
        assert job.token_ids == tokens


def test_prompts_with_end_of_text_in_them(engine, waiting, tiny_gpt2):
    prompts = [[5, 0, 6, 0], [0], [0, 0, 9], [7, 8, 9, 0]]
    jobs = handed_in(engine, waiting, prompts, max_new_tokens=8)
    waiting.until(lambda: all(job.is_over for job in jobs))
    assert [job.token_ids for job in jobs] == transformers_greedy(tiny_gpt2, prompts, 8)


def test_log_likelihoods_are_those_of_transformers(engine, prompts, tiny_gpt2):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    answers = [prompts[-1 - i][: 1 + i % 16] for i in range(48)]
    values = []
    for prompt, answer in zip(prompts, answers, strict=False):
        ids = torch.tensor([prompt + answer])
        with torch.inference_mode():
            log_p = model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0]
        values.append(float(log_p[len(prompt) - 1 :].mean()))
    assert engine.log_likelihoods(prompts[:48], answers) == pytest.approx(values, abs=1e-4)


# --- ends of an answer ----------------------------------------------------------------------------


def habits(folder, target, **settings):
    """A copy of the checkpoint with a generation_config.json of its own."""
    shutil.copytree(folder, target)
    (target / "generation_config.json").write_text(json.dumps(settings))
    return target


def answered(engine, prompt, **params):
    news = threading.Event()
    job = Job(prompt, Sampling(**params), news.set)
    engine.submit(job)
    assert news.wait(20)
    job.check_alive()
    return job


def test_a_checkpoints_own_generation_settings_do_not_leak_in(taught, taught_ir, tmp_path, engine_name, text_model):
    prompt = text_model.encode("Question: Count.\nAnswer:").token_ids
    given = {"num_beams": 3, "do_sample": True, "no_repeat_ngram_size": 1, "min_new_tokens": 60, "temperature": 3.0}
    folder = habits(taught, tmp_path / "model", eos_token_id=0, repetition_penalty=5.0, **given)
    own = open_engine(engine_name, folder, taught_ir)
    assert answered(own, prompt).token_ids == answered(text_model.engine, prompt).token_ids
    own.close()


def test_several_end_tokens(taught, taught_ir, tmp_path, engine_name, text_model):
    prompt = text_model.encode("Question: Count.\nAnswer:").token_ids
    whole = answered(text_model.engine, prompt).token_ids
    own = open_engine(engine_name, habits(taught, tmp_path / "model", eos_token_id=[0, whole[5]]), taught_ir)
    job = answered(own, prompt)
    own.close()
    assert (job.token_ids, job.ended.finish_reason) == (whole[: whole.index(whole[5])], "stop")


def test_no_end_token(taught, taught_ir, tmp_path, engine_name, text_model, request):
    folder = habits(taught, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(settings))
    own = open_engine(engine_name, folder, taught_ir)
    job = answered(own, text_model.encode("Question: Count.\nAnswer:").token_ids, max_new_tokens=60)
    own.close()
    assert (len(job.token_ids), job.ended.finish_reason) == (60, "length")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "The prompt has no tokens"),
        ([1, -1], "outside the vocabulary"),
        ([1, 10**6], "outside the vocabulary"),
        ([2**70], "outside the vocabulary"),
        ([1] * 257, "The prompt has 257 tokens; the model can see 256."),
    ],
)
def test_ids_that_do_not_fit_are_refused_before_the_work(engine, waiting, ids, message):
    before = engine.load()
    with pytest.raises(MlflowException, match=message) as refused:
        engine.submit(waiting.job(ids, Sampling()))
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert (engine.load().restarts, engine.is_healthy()) == (before.restarts, True)


def test_the_first_id_that_is_too_large(engine, waiting):
    vocabulary = engine.limits.vocabulary
    with pytest.raises(MlflowException, match=f"0 to {vocabulary - 1}"):
        engine.submit(waiting.job([vocabulary], Sampling()))
    assert answered(engine, [vocabulary - 1], max_new_tokens=1).is_over


def test_ids_that_do_not_fit_are_not_scored(engine, engine_name, request):
    for prompt in ([10**6], [-1]):
        with pytest.raises(MlflowException, match="outside the vocabulary"):
            engine.log_likelihoods([prompt], [[1, 2]])
    assert engine.is_healthy()


@pytest.mark.parametrize("answer", [[], [1, 2]], ids=["empty answer", "no room for the answer"])
def test_an_answer_without_tokens_to_score_is_refused(engine, answer, request):
    with pytest.raises(MlflowException):
        engine.log_likelihoods([[5] * (256 if answer else 3)], [answer])


def test_a_prompt_that_fills_the_window_ends_at_once(engine):
    job = answered(engine, [5] * 256)
    assert (job.token_ids, job.ended.finish_reason) == ([], "length")
    assert len(answered(engine, [5] * 255).token_ids) <= 1


def test_check_ids_and_room():
    limits = Limits(vocabulary=10, window=4, eos_ids=frozenset())
    check_ids([0, 9, 0, 9], limits)
    assert most_new_tokens(Job([1, 2, 3], Sampling(), list), limits) == 1
    assert most_new_tokens(Job([1], Sampling(max_new_tokens=2), list), limits) == 2


# --- fair turns -----------------------------------------------------------------------------------


def test_a_list_of_200_does_not_starve_a_single_question(engine, engine_name, waiting, request):
    many = handed_in(engine, waiting, [[1 + i % 250, 5] for i in range(200)], max_new_tokens=100)
    waiting.until(lambda: any(job.token_ids for job in many))
    (single,) = handed_in(engine, waiting, [[9, 8, 7]], max_new_tokens=3)
    waiting.until(lambda: single.is_over)
    done = sum(job.is_over for job in many)
    for job in many:
        job.cancel()
    waiting.until(lambda: all(job.is_over for job in many) and is_idle(engine))
    assert len(single.token_ids) == 3
    assert done < 60  # the first 48 or 64 of the list may be through


def test_everyone_of_a_crowd_is_answered(engine, waiting):
    jobs = [waiting.job([1 + i], Sampling(max_new_tokens=2), group=i % 3) for i in range(90)]
    for job in jobs:
        engine.submit(job)
    waiting.until(lambda: all(job.is_over for job in jobs))
    assert {job.ended.finish_reason for job in jobs} <= {"length", "stop"}


# --- jobs that nobody wants any more --------------------------------------------------------------


def test_cancellation_ends_the_work(tireless, waiting):
    engine = tireless.engine
    before = engine.load().cancelled
    (job,) = handed_in(engine, waiting, [[9, 8, 7]], max_new_tokens=1000)
    waiting.until(lambda: len(job.token_ids) > 2)
    assert engine.load().running == 1
    job.cancel()
    waiting.until(lambda: job.is_over, 2)
    waiting.until(lambda: is_idle(engine), 2)
    assert (job.ended.finish_reason, engine.load().cancelled) == ("cancelled", before + 1)
    assert 2 < len(job.token_ids) < 900


def test_jobs_that_wait_can_be_cancelled(tireless, waiting):
    engine = tireless.engine
    jobs = handed_in(engine, waiting, [[9, 8, 7]] * 150, max_new_tokens=1000)
    waiting.until(lambda: jobs[0].token_ids)
    for job in jobs:
        job.cancel()
    started = time.monotonic()
    waiting.until(lambda: all(job.is_over for job in jobs) and is_idle(engine), 5)
    assert time.monotonic() - started < 2
    assert {job.ended.finish_reason for job in jobs} == {"cancelled"}


def test_a_job_that_was_cancelled_before_it_was_handed_in(tireless, waiting):
    engine = tireless.engine
    job = waiting.job([9, 8, 7], Sampling(max_new_tokens=1000))
    job.cancel()
    engine.submit(job)
    waiting.until(lambda: job.is_over, 2)
    assert job.ended.finish_reason == "cancelled"
    assert len(job.token_ids) < 900


def test_cancelling_after_the_end_changes_nothing(engine, waiting):
    job = answered(engine, [9], max_new_tokens=2)
    ended, before = job.ended, engine.load().restarts
    job.cancel()
    assert job.ended is ended
    assert engine.load().restarts == before
    assert answered(engine, [9], max_new_tokens=2).token_ids == job.token_ids


def test_one_job_at_its_deadline_leaves_the_others_alone(engine, waiting):
    (late,) = handed_in(engine, waiting, [[9, 8, 7]], max_new_tokens=240, timeout_s=0.005)
    (patient,) = handed_in(engine, waiting, [[9, 8, 7]], max_new_tokens=240)
    waiting.until(lambda: late.is_over and patient.is_over)
    assert (late.ended.finish_reason, patient.ended.finish_reason) == ("timeout", "length")
    assert late.token_ids == patient.token_ids[: len(late.token_ids)]
    assert late.ended.total_s >= 0.005


# --- the job itself -------------------------------------------------------------------------------


def test_a_caller_is_told_of_the_end_or_of_each_token():
    for each_token, times in ((False, 1), (True, 3)):
        told = []
        job = Job([1], Sampling(), lambda told=told: told.append(1), each_token=each_token)
        job.extend([5])
        job.extend([6, 7])
        job.end("stop")
        assert (len(told), job.token_ids, job.ended.finish_reason) == (times, [5, 6, 7], "stop")
        assert 0 < job.first_token_s <= job.ended.total_s


def test_only_the_first_end_counts():
    job = Job([1], Sampling(), list)
    job.end("timeout")
    job.end("stop")
    job.fail(EngineFailed("too late"))
    job.check_alive()
    assert (job.ended.finish_reason, job.error) == ("timeout", None)


def test_an_engine_that_says_nothing_is_given_up(monkeypatch):
    job = Job([1], Sampling(timeout_s=1.0), list)
    job.check_alive()
    job.handed_in -= 15.9
    job.check_alive()
    job.handed_in -= 0.2
    with pytest.raises(EngineFailed, match="stopped answering"):
        job.check_alive()


# --- the engine's life ----------------------------------------------------------------------------


def test_it_describes_itself(engine, engine_name):
    told = engine.describe()
    assert (told["name"], told["precision"], told["threads"]) == (engine_name, "fp32", 1)
    assert told["version"][0].isdigit()
    json.dumps(told)


def test_limits_are_those_of_the_checkpoint(engine, tiny_gpt2):
    assert engine.limits == read_limits(tiny_gpt2)


def test_a_forked_child_gets_a_clear_error(engine, engine_name, request):
    said = in_a_forked_child(lambda: engine.submit(Job([5], Sampling(max_new_tokens=1), list)))
    assert said == "EngineFailed: The model was loaded before this process was forked; load it again here."
    assert answered(engine, [9], max_new_tokens=1).is_over  # the parent's goes on


def test_a_forked_child_is_not_healthy(engine, request):
    assert in_a_forked_child(lambda: engine.is_healthy()) == "False"


def in_a_forked_child(act) -> str:
    """What `act` returns or raises in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(act())
        except MlflowException as exc:
            said = f"{type(exc).__name__}: {exc.message}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    readable = select.select([reading], [], [], 10)[0]
    said = os.read(reading, 1000).decode() if readable else "no answer"
    os.close(reading)
    os.waitpid(child, 0)
    return said
