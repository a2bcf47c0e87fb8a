"""What the answers to a case file are worth: each case's assessments, their means, the gate's evidence, the table.

Pure: answers in, figures out. How one answer is compared with one reference is `scorers.py`'s and `checks.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import fmean, median

from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.checks import all_passed, run_check
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.scorers import AGAINST_REFERENCE, repetition, succeeded
from genai_lifecycle.store.evaluations import Assessment, Row


def row_of(case: Case, answer: CaseAnswer) -> Row:
    """The scores of one answer, and what its case asked for."""
    assessments = [Assessment(name, value, True, "", is_check=False) for name, value in _scores(case, answer).items()]
    if case.checks:
        made = _numbered([run_check(answer, check) for check in case.checks])
        passed = all_passed(made, case.threshold)
        why = "; ".join(f"{item.name}: {item.why}" for item in made if not item.passed)
        assessments += [*made, Assessment("passed", float(passed), passed, why)]
    return Row(assessments, {"expected_response": case.reference} if case.reference else {})


def _scores(case: Case, answer: CaseAnswer) -> dict[str, float]:
    scores = {"repetition": repetition(answer.text)}
    if not case.reference:
        return scores
    likelihood = {} if answer.log_likelihood is None else {"log_likelihood": answer.log_likelihood}
    return {name: score(answer.text, case.reference) for name, score in AGAINST_REFERENCE.items()} | likelihood | scores


def _numbered(assessments: Sequence[Assessment]) -> list[Assessment]:
    """A case may make the same check twice; MLflow shows one assessment for each name."""
    seen: dict[str, int] = {}
    named = []
    for item in assessments:
        seen[item.name] = seen.get(item.name, 0) + 1
        name = item.name if seen[item.name] == 1 else f"{item.name}-{seen[item.name]}"
        named.append(Assessment(name, item.score, item.passed, item.why, item.weight))
    return named


def evidence_of(
    label: str, cases: Sequence[Case], answers: Sequence[CaseAnswer], rows: Sequence[Row], *, has_latencies: bool = True
) -> Evidence:
    """The scores that every case has: two prompts are compared case by case.

    Args:
        has_latencies: whether the engine that will serve has answered.
    """
    values = [{item.name: item.score for item in row.assessments if not item.is_check or item.name == "passed"}
              for row in rows]  # fmt: skip
    names = [name for name in values[0] if all(name in row for row in values)]
    scores = {name: tuple(row[name] for row in values) for name in names}
    latencies_ms = tuple(answer.latency_ms for answer in answers) if has_latencies else ()
    return Evidence(label, cases_sha256(cases), scores, latencies_ms)


def metrics_of(answers: Sequence[CaseAnswer], evidence: Evidence) -> dict[str, float]:
    """What is logged on the run: means over the cases; `latency_ms` is the median, `total_tokens` the sum."""
    count = len(answers)
    return {name: fmean(values) for name, values in evidence.scores.items()} | {
        "success_rate": sum(succeeded(answer.text, answer.finish_reason) for answer in answers) / count,
        "ended_rate": sum(answer.finish_reason == "stop" for answer in answers) / count,
        "answer_words": sum(len(answer.text.split()) for answer in answers) / count,
        "latency_ms": median(answer.latency_ms for answer in answers),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers) / count,
        "completion_tokens": sum(answer.completion_tokens for answer in answers) / count,
        "total_tokens": float(sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)),
    }


def table_of(
    label: str, cases: Sequence[Case], answers: Sequence[CaseAnswer], rows: Sequence[Row]
) -> Iterator[dict[str, object]]:
    """A line of results.csv for each case."""
    for number, (case, answer, row) in enumerate(zip(cases, answers, rows, strict=True)):
        yield {
            "prompt": label, "case": number, "name": case.name, "question": case.question,
            "variables": json.dumps(dict(case.variables), ensure_ascii=False), "reference": case.reference,
            "answer": answer.text, "finish_reason": answer.finish_reason, "latency_ms": round(answer.latency_ms, 1),
            "completion_tokens": answer.completion_tokens,
            "scores": json.dumps({item.name: round(item.score, 4) for item in row.assessments}),
            "failed": "; ".join(f"{item.name}: {item.why}" for item in row.assessments if not item.passed),
        }  # fmt: skip
