"""The answers of one prompt to the cases: from the answer cache, or computed in batches and put there.

Knows no MLflow and no model: how a batch is answered is a parameter, and the caller writes the traces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from genai_lifecycle.evaluation.answer_cache import AnswerCache, key
from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.evaluation.cases import Case

BATCH = 32  # cases that are answered together

AnswerBatch = Callable[[Sequence[Case]], list[CaseAnswer]]  # at most `BATCH` cases, answered in their order


@dataclass(frozen=True)
class AnsweredBatch:
    """Some cases, one after the other, with their answers."""

    start: int  # number of the first
    cases: Sequence[Case]
    answers: Sequence[CaseAnswer]
    reused: int  # answers that were computed before
    compute_s: float


def answered_batches(cases: Sequence[Case], cache: AnswerCache, answer: AnswerBatch) -> Iterator[AnsweredBatch]:
    """Every case's answer, each batch as soon as it is in the cache. Raises StorageFailed when it cannot be kept."""
    for start in range(0, len(cases), BATCH):
        batch, started = cases[start : start + BATCH], time.monotonic()
        names = [_name(start + i, case) for i, case in enumerate(batch)]
        known = [cache.get(name) for name in names]
        missing = [i for i, cached in enumerate(known) if cached is None]
        made = dict(zip(missing, answer([batch[i] for i in missing]) if missing else [], strict=True))
        cache.add((names[i], answer) for i, answer in made.items())
        answers = [cached if cached is not None else made[i] for i, cached in enumerate(known)]
        yield AnsweredBatch(start, batch, answers, len(batch) - len(missing), time.monotonic() - started)


def _name(number: int, case: Case) -> str:
    return key({"number": number, "inputs": case.inputs, "reference": case.reference})
