"""What an experiment leaves for people: a Markdown report, the results table, the prompts and the plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from genai_lifecycle.evaluation import plots
from genai_lifecycle.evaluation.results import EvaluationReport, ExperimentResult, TemplateScore
from genai_lifecycle.evaluation.statistics import Interval, Verdict

REPORT_FILE, TABLE_FILE, PROMPTS_FILE = "report.md", "results.csv", "prompts.json"
_SHOWN = ("token_f1", "log_likelihood", "success_rate", "ended_rate", "answer_words", "seconds_per_answer",
          "tokens_per_second")  # fmt: skip
VERDICT_FILE = "verdict.json"
EXAMPLES = 8  # questions shown with the winner's answers


def write(folder: Path, result: ExperimentResult, rows: Sequence[Mapping[str, object]]) -> None:
    """Write every file below `folder`.

    Args:
        rows: one for each prompt and case, all with the same keys.
    """
    (folder / REPORT_FILE).write_text(markdown(result, rows), "utf-8")
    _write_table(folder / TABLE_FILE, rows)
    prompts = [score.prompt for score in result.scores]
    records = [{"name": p.name, "version": p.version, "template": p.template} for p in prompts]
    (folder / PROMPTS_FILE).write_text(json.dumps(records, indent=2), "utf-8")
    plots.quality(result.scores, result.cases, folder / "quality.png")
    plots.speed(result.scores, folder / "speed.png")
    _write_verdict(folder, result.verdict)


def _write_table(file: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        table = csv.DictWriter(opened, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _write_verdict(folder: Path, verdict: Verdict) -> None:
    (folder / VERDICT_FILE).write_text(json.dumps(asdict(verdict), indent=2), "utf-8")
    plots.differences(verdict, folder / "differences.png")


def markdown(result: ExperimentResult, rows: Sequence[Mapping[str, object]]) -> str:
    """The report as text."""
    lines = ["# Prompt comparison", "", f"**{result.verdict}** ({result.cases} cases, greedy answers)", ""]
    lines += [_header(), "|" + "---|" * (len(_SHOWN) + 2), *map(_row, result.scores), ""]
    lines += [
        "Intervals are bootstrap intervals over the cases. Seconds and tokens per second are of batched generation.",
        "",
    ]
    lines += [f"Judge: {result.judge}", "", f"## What {result.winner} answered", ""]
    winners = [row for row in rows if row["prompt"] == str(result.winner)][:EXAMPLES]
    for row in winners:
        said = f"- **{row['question']}** {row['answer']} *(token F1 {row['token_f1']})*"
        lines += [" ".join(said.split())]  # an answer of several lines stays one item of the list
    return "\n".join(lines) + "\n"


def _header() -> str:
    return "| prompt | 95 % interval of token_f1 | " + " | ".join(_SHOWN) + " |"


def _row(score: TemplateScore) -> str:
    interval = f"[{score.token_f1.low:.3f}, {score.token_f1.high:.3f}]"
    values = " | ".join(f"{score.metrics[name]:.3f}" for name in _SHOWN)
    return f"| {score.prompt} | {interval} | {values} |"


# --- evaluation -----------------------------------------------------------------------------------


def write_evaluation(folder: Path, result: EvaluationReport, rows: Sequence[Mapping[str, object]]) -> None:
    """Write every file of an evaluation below `folder`; `rows` has one for each prompt and case."""
    (folder / REPORT_FILE).write_text(evaluation_markdown(result), "utf-8")
    _write_table(folder / TABLE_FILE, rows)
    if result.verdict is not None:
        _write_verdict(folder, result.verdict)


def evaluation_markdown(result: EvaluationReport) -> str:
    """The report as text: the verdict, a table of scores, a table of comparisons, what was left out."""
    names = list(dict.fromkeys(name for item in result.evaluated for name in item.scores))
    lines = ["# Evaluation", "", f"**{result.verdict or 'nothing to compare'}** ({result.cases} cases)", ""]
    lines += ["| prompt | " + " | ".join(names) + " | latency ms |", "|" + "---|" * (len(names) + 2)]
    for item in result.evaluated:
        values = [_with_interval(item.scores.get(name)) for name in names]
        lines += [f"| {item.label} | {' | '.join(values)} | {item.metrics['latency_ms']:.0f} |"]
    lines += ["", "Means with their 95 % bootstrap intervals over the cases; the latency is the median answer's.", ""]
    lines += _comparisons(result.verdict) if result.verdict else []
    lines += [f"Judge: {result.judge}", ""]
    lines += [f"- Left out: {sentence}" for sentence in result.left_out]
    return "\n".join(lines) + "\n"


def _with_interval(found: Interval | None) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else ""


def _comparisons(verdict: Verdict) -> list[str]:
    lines = [f"| {verdict.comparisons[0].leader} minus | {verdict.metric} | p (Holm) | |", "|---|---|---|---|"]
    for item in verdict.comparisons:
        found = item.difference
        interval = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        lines += [f"| {item.other} | {interval} | {item.p_value:.4f} | {item.outcome} |"]
    return [*lines, ""]
