"""The answers of one prompt to a case file: from the answer cache, or computed in batches and kept there.

Knows no MLflow and no model: how a batch is answered is a parameter, and the caller writes the traces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from genai_lifecycle.evaluation.answer_cache import Kept, Ledger, key
from genai_lifecycle.evaluation.cases import Case

BATCH = 32  # cases that are answered together


@dataclass(frozen=True)
class AnsweredBatch:
    """Some cases, one after the other, with their answers."""

    start: int  # number of the first
    cases: Sequence[Case]
    kept: Sequence[Kept]
    reused: int  # answers that were computed before
    compute_s: float


def answered_batches(
    cases: Sequence[Case], ledger: Ledger, answer: Callable[[Sequence[Case]], list[Kept]]
) -> Iterator[AnsweredBatch]:
    """Every case's answer, each batch as soon as it is in the cache. Raises StorageFailed when it cannot be kept.

    Args:
        answer: answers at most `BATCH` cases, in their order.
    """
    for start in range(0, len(cases), BATCH):
        batch, started = cases[start : start + BATCH], time.monotonic()
        names = [_name(start + i, case) for i, case in enumerate(batch)]
        missing = [i for i, name in enumerate(names) if ledger.get(name) is None]
        made = answer([batch[i] for i in missing]) if missing else []
        ledger.add((names[i], kept) for i, kept in zip(missing, made, strict=True))
        kept = [_known(ledger, name) for name in names]
        yield AnsweredBatch(start, batch, kept, len(batch) - len(missing), time.monotonic() - started)


def _name(number: int, case: Case) -> str:
    return key({"number": number, "inputs": case.inputs, "reference": case.reference})


def _known(ledger: Ledger, name: str) -> Kept:
    kept = ledger.get(name)
    if kept is None:
        raise KeyError(name)
    return kept
