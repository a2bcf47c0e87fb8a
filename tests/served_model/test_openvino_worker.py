"""Who comes into the engine's batch, in which order, and who leaves it; over a pipeline that only counts."""

from __future__ import annotations

import pytest

from served_model.text_generation import openvino_worker
from served_model.text_generation.openvino_worker import MAX_BATCHED_TOKENS, MAX_RUNNING, RESERVED, Batch


class Handle:
    def __init__(self):
        self.is_cancelled = False

    def get_status(self):
        return openvino_worker.genai.GenerationStatus.RUNNING

    def can_read(self):
        return False

    def cancel(self):
        self.is_cancelled = True


class Pipeline:
    """Takes every request, and answers none."""

    def __init__(self):
        self.order: list[int] = []
        self.handles: dict[int, Handle] = {}

    def add_request(self, number, ids, config):
        self.order.append(number)
        self.handles[number] = Handle()
        return self.handles[number]

    def has_non_finished_requests(self):
        return False


@pytest.fixture
def batch():
    return Batch(Pipeline(), [0])


def add(batch, numbers, group=None, prompt_tokens=3, left_s=60.0):
    """Jobs of one group, or each of its own."""
    batch.take([
        {
            "add": {
                "id": number, "group": group or -number, "left_s": left_s, "ids": [5] * prompt_tokens,
                "max_new_tokens": 9, "temperature": 0, "repetition_penalty": 1.0,
            }
        }
        for number in numbers
    ])  # fmt: skip


def read(batch):
    """Every prompt that is in has been read."""
    for job in batch.running.values():
        job.is_reading = False


def test_a_call_of_many_jobs_leaves_places_for_calls_of_one(batch):
    add(batch, range(1, 1001), group=7)
    batch.step()
    assert len(batch.running) == MAX_RUNNING - RESERVED
    add(batch, range(2001, 2021))
    batch.step()
    assert batch.pipeline.order[-RESERVED:] == list(range(2001, 2001 + RESERVED))
    assert len(batch.running) == MAX_RUNNING


def test_so_do_many_such_calls_together(batch):
    for group in range(1, 9):
        add(batch, range(group * 1000, group * 1000 + 100), group=group)
    batch.step()
    assert len(batch.running) == MAX_RUNNING - RESERVED
    shares = [sum(job.group == group for job in batch.running.values()) for group in range(1, 9)]
    assert shares == [6] * 8


def test_calls_of_one_job_may_fill_the_batch(batch):
    add(batch, range(1, 100))
    batch.step()
    assert batch.pipeline.order == list(range(1, MAX_RUNNING + 1))


def test_many_long_prompts_are_not_all_read_before_one_that_comes_later(batch):
    add(batch, range(1, 401), group=7, prompt_tokens=250)
    batch.step()
    unread = 250 * len(batch.running)
    assert MAX_BATCHED_TOKENS <= unread < MAX_BATCHED_TOKENS + 250
    batch.step()
    assert 250 * len(batch.running) == unread, "nothing has been read yet"
    add(batch, [1000])
    batch.step()
    assert batch.pipeline.order[-1] == 1000
    read(batch)
    batch.step()
    assert 250 * (len(batch.running) - 1) == 2 * unread, "the next ones come in while the first ones are answered"


def test_the_last_job_of_a_call_counts_as_one(batch):
    add(batch, range(1, 49), group=7)
    add(batch, [100, 101], group=8)
    batch.step()
    assert len(batch.running) == MAX_RUNNING - RESERVED
    batch.take([{"cancel": [100]}])
    batch.step()
    assert 101 in batch.running


def test_jobs_of_a_call_come_in_as_they_were_handed_in(batch):
    add(batch, [3, 1, 2], group=7)
    batch.step()
    assert batch.pipeline.order == [3, 1, 2]


def test_a_cancelled_job_leaves_from_wherever_it_is(batch):
    add(batch, range(1, 101), group=7)
    batch.step()
    batch.take([{"cancel": [1, 100, 999]}])
    assert sorted(batch.step()) == [[1, [], "cancelled"], [100, [], "cancelled"]]
    assert batch.pipeline.handles[1].is_cancelled
    assert len(batch.running) + len(batch.waiting) == 98
    batch.take([{"cancel": list(range(1, 101))}])
    assert len(batch.step()) == 98
    assert batch.is_idle


def test_deadlines_are_kept_by_jobs_that_run_and_by_jobs_that_wait(batch, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(openvino_worker.time, "monotonic", lambda: now[0])
    add(batch, range(1, 81), group=7, left_s=1.0)
    add(batch, [200], left_s=5.0)
    batch.step()
    now[0] = 102.0
    assert [event[2] for event in batch.step()] == ["timeout"] * 80
    now[0] = 106.0
    assert batch.step() == [[200, [], "timeout"]]
    add(batch, [300], left_s=1.0)
    now[0] = 108.0
    assert batch.step() == [[300, [], "timeout"]]
    assert batch.is_idle
