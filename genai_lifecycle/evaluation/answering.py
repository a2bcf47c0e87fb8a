"""The answers of one prompt to a case file: from the ledger, or computed in batches and kept there.

Knows no MLflow: whoever asks for the batches writes their traces.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.evaluation.ledger import Kept, Ledger, key
from genai_lifecycle.generation import BATCH, answer_texts, prompt_texts, text_log_likelihoods


@dataclass(frozen=True)
class AnsweredBatch:
    """Some cases, one after the other, with their answers."""

    start: int  # number of the first
    cases: Sequence[Case]
    kept: Sequence[Kept]
    reused: int  # answers that were computed before
    compute_s: float


def answered_batches(
    text_model: Any, template: str, cases: Sequence[Case], max_new_tokens: int, ledger: Ledger
) -> Iterator[AnsweredBatch]:
    """Every case's answer, each batch as soon as it is in the ledger. Raises StorageFailed when it cannot be kept."""
    for start in range(0, len(cases), BATCH):
        batch, started = cases[start : start + BATCH], time.monotonic()
        names = [_name(start + i, case) for i, case in enumerate(batch)]
        missing = [i for i, name in enumerate(names) if ledger.get(name) is None]
        made = compute(text_model, template, [batch[i] for i in missing], max_new_tokens) if missing else []
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


def compute(text_model: Any, template: str, cases: Sequence[Case], max_new_tokens: int) -> list[Kept]:
    """Greedy answers, made together."""
    start_ns = time.time_ns()
    texts = prompt_texts(template, cases)
    answers = answer_texts(text_model, texts, max_new_tokens)
    generated_ns = time.time_ns()
    likelihoods = text_log_likelihoods(text_model, texts, [case.reference for case in cases])
    end_ns = time.time_ns()
    return [
        Kept(answer.answer, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens,
             answer.total_s * 1000, likelihood, text, start_ns, min(start_ns + int(answer.total_s * 1e9), generated_ns),
             end_ns)
        for answer, text, likelihood in zip(answers, texts, likelihoods, strict=True)
    ]  # fmt: skip
