"""What is the torch engine's own: padded batches, its thread, torch's settings and random numbers."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_model import make_pickled

from served_model.text_generation.engine import Job
from served_model.text_generation.errors import EngineFailed
from served_model.text_generation.sampling import Sampling
from served_model.text_generation.torch_engine import MAX_BATCH, SCORED_BATCH, TorchEngine


@pytest.fixture(scope="module")
def engine(tiny_gpt2):
    engine = TorchEngine.load_from(tiny_gpt2, 1)
    yield engine
    engine.close()


def answered(engine, prompt, **params) -> list[int]:
    news = threading.Event()
    job = Job(prompt, Sampling(**params), news.set)
    engine.submit(job)
    assert news.wait(20)
    job.check_alive()
    return job.token_ids


def batches_of(engine, monkeypatch) -> list[int]:
    """Grows by the size of every batch."""
    sizes, padded = [], engine._batches._padded
    monkeypatch.setattr(
        engine._batches, "_padded", lambda rows, *, left: sizes.append(len(rows)) or padded(rows, left=left)
    )
    return sizes


def all_answered(engine, waiting, prompts, samplings):
    jobs = [waiting.job(ids, sampling) for ids, sampling in zip(prompts, samplings, strict=True)]
    with engine._batches._computing:  # they are all there when the next batch is put together
        for job in jobs:
            engine.submit(job)
    waiting.until(lambda: all(job.is_over for job in jobs))
    return jobs


def test_jobs_that_want_the_same_share_a_batch(engine, waiting, monkeypatch):
    sizes = batches_of(engine, monkeypatch)
    count = 2 * MAX_BATCH + 3
    all_answered(engine, waiting, [[5, 6]] * count, [Sampling(max_new_tokens=2)] * count)
    assert max(sizes) == MAX_BATCH
    assert sum(sizes) == count
    assert len(sizes) <= 4  # the first one may have started alone


def test_jobs_that_want_different_things_do_not(engine, waiting, monkeypatch):
    sizes = batches_of(engine, monkeypatch)
    samplings = [Sampling(max_new_tokens=2, repetition_penalty=1 + i) for i in range(3)]
    samplings += [Sampling(max_new_tokens=2, temperature=1.0, seed=3)] * 2
    all_answered(engine, waiting, [[5, 6]] * 5, samplings)
    assert sizes == [1, 1, 1, 2]  # each row draws from a generator of its own, so two draws may share a batch


def test_a_batch_fits_into_the_window(engine, waiting, monkeypatch):
    sizes = batches_of(engine, monkeypatch)
    samplings = [Sampling(max_new_tokens=200), Sampling(max_new_tokens=3)]
    jobs = all_answered(engine, waiting, [[5] * 10, [5] * 240], samplings)
    assert [len(job.token_ids) for job in jobs] == [200, 3]
    assert sizes == [1, 1]


def test_texts_are_scored_in_batches_of_similar_lengths(engine, monkeypatch):
    sizes = batches_of(engine, monkeypatch)
    engine.log_likelihoods([[5]] * (SCORED_BATCH + 1), [[6] * (1 + i) for i in range(SCORED_BATCH + 1)])
    assert sizes == [SCORED_BATCH, 1]


def test_a_fault_of_the_network_fails_its_batch_only(tiny_gpt2, monkeypatch):
    engine = TorchEngine.load_from(tiny_gpt2, 1)
    expected = answered(engine, [5], max_new_tokens=3)

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "forward", broken)
        with pytest.raises(EngineFailed, match="The engine failed: out of memory"):
            answered(engine, [5])
    assert engine.is_healthy()
    assert answered(engine, [5], max_new_tokens=3) == expected
    engine.close()


def test_a_seeded_draw_leaves_the_callers_random_numbers_alone(engine, waiting):
    import torch

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    answered(engine, [5], temperature=1.0, seed=9, max_new_tokens=2)
    waiting.until(lambda: not engine.load().running)
    assert torch.equal(torch.rand(3), expected)


def test_seeded_draws_of_two_engines_do_not_disturb_each_other(engine, tiny_gpt2):
    other = TorchEngine.load_from(tiny_gpt2, 1)

    def drawn(which):
        return [answered(which, [5], temperature=5.0, seed=i % 12, max_new_tokens=12) for i in range(48)]

    alone = drawn(engine)
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(drawn, (engine, other)))
    other.close()
    assert given == [alone, alone]


def test_pickled_weights_are_not_read(tmp_path):
    with pytest.raises(OSError, match="safetensors"):
        TorchEngine.load_from(make_pickled(tmp_path / "pickled"))


def test_threads_are_those_asked_for(tiny_gpt2):
    import torch

    before = torch.get_num_threads()
    try:
        engine = TorchEngine.load_from(tiny_gpt2, 2)
        assert (torch.get_num_threads(), engine.describe()["threads"]) == (2, 2)
        engine.close()
    finally:
        torch.set_num_threads(before)


def test_a_dropped_engine_ends_its_thread_and_frees_its_weights(tiny_gpt2):
    before = set(threading.enumerate())
    engine = TorchEngine.load_from(tiny_gpt2, 1)
    answered(engine, [5], max_new_tokens=2)
    (thread,) = [item for item in set(threading.enumerate()) - before if item.name == "engine-batches"]
    weights = weakref.ref(engine.model)
    del engine
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    del thread
    gc.collect()
    assert weights() is None
