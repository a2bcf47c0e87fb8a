"""What the answers to a case file are worth: each case's findings, their means, the gate's evidence, the table.

Pure: answers in, figures out. How one answer is compared with one reference is `scorers.py`'s and `checks.py`'s.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence

from genai_lifecycle.evaluation.answer_cache import Kept
from genai_lifecycle.evaluation.cases import Case, cases_sha256
from genai_lifecycle.evaluation.checks import Answered, all_passed, run_check
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.scorers import AGAINST_REFERENCE, repetition
from genai_lifecycle.store.evaluations import Finding, Row


def row_of(case: Case, kept: Kept) -> Row:
    """The scores of one answer, and what its case asked for."""
    findings = [Finding(name, value, True, "", is_check=False) for name, value in _scores(case, kept).items()]
    if case.checks:
        answered = Answered(kept.text, case.reference, kept.finish_reason, kept.completion_tokens, kept.latency_ms,
                            kept.log_likelihood)  # fmt: skip
        made = _numbered([run_check(answered, check) for check in case.checks])
        passed = all_passed(made, case.threshold)
        why = "; ".join(f"{item.name}: {item.why}" for item in made if not item.passed)
        findings += [*made, Finding("passed", float(passed), passed, why)]
    return Row(findings, {"expected_response": case.reference} if case.reference else {})


def _scores(case: Case, kept: Kept) -> dict[str, float]:
    found = {"repetition": repetition(kept.text)}
    if not case.reference:
        return found
    likelihood = {} if kept.log_likelihood is None else {"log_likelihood": kept.log_likelihood}
    return {name: score(kept.text, case.reference) for name, score in AGAINST_REFERENCE.items()} | likelihood | found


def _numbered(findings: Sequence[Finding]) -> list[Finding]:
    """A case may make the same check twice; MLflow shows one assessment for each name."""
    seen: dict[str, int] = {}
    named = []
    for item in findings:
        seen[item.name] = seen.get(item.name, 0) + 1
        name = item.name if seen[item.name] == 1 else f"{item.name}-{seen[item.name]}"
        named.append(Finding(name, item.score, item.passed, item.why, item.weight))
    return named


def evidence_of(label: str, cases: Sequence[Case], kept: Sequence[Kept], rows: Sequence[Row]) -> Evidence:
    """The scores that every case has: two prompts are compared case by case."""
    values = [{item.name: item.score for item in row.findings if not item.is_check or item.name == "passed"}
              for row in rows]  # fmt: skip
    names = [name for name in values[0] if all(name in row for row in values)]
    scores = {name: tuple(row[name] for row in values) for name in names}
    return Evidence(label, cases_sha256(cases), scores, tuple(item.latency_ms for item in kept))


def metrics_of(kept: Sequence[Kept], evidence: Evidence) -> dict[str, float]:
    """What is logged on the run: means over the cases; `latency_ms` is the median, `total_tokens` the sum."""
    count = len(kept)
    return {name: sum(values) / count for name, values in evidence.scores.items()} | {
        "latency_ms": statistics.median(item.latency_ms for item in kept),
        "prompt_tokens": sum(item.prompt_tokens for item in kept) / count,
        "completion_tokens": sum(item.completion_tokens for item in kept) / count,
        "total_tokens": float(sum(item.prompt_tokens + item.completion_tokens for item in kept)),
        "ended_rate": sum(item.finish_reason == "stop" for item in kept) / count,
    }


def table_of(
    label: str, cases: Sequence[Case], kept: Sequence[Kept], rows: Sequence[Row]
) -> Iterator[dict[str, object]]:
    """A line of results.csv for each case."""
    for number, (case, answer, row) in enumerate(zip(cases, kept, rows, strict=True)):
        yield {
            "prompt": label, "case": number, "name": case.name, "question": case.question,
            "variables": json.dumps(dict(case.variables), ensure_ascii=False), "reference": case.reference,
            "answer": answer.text, "finish_reason": answer.finish_reason, "latency_ms": round(answer.latency_ms, 1),
            "completion_tokens": answer.completion_tokens,
            "scores": json.dumps({found.name: round(found.score, 4) for found in row.findings}),
            "failed": "; ".join(f"{found.name}: {found.why}" for found in row.findings if not found.passed),
        }  # fmt: skip
