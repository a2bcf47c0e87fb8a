"""What an experiment or an evaluation leaves for people: a report, the table of answers, the prompts, the plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from genai_lifecycle.evaluation import plots
from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult
from genai_lifecycle.evaluation.statistics import Interval, Verdict

REPORT_FILE, TABLE_FILE, PROMPTS_FILE, VERDICT_FILE = "report.md", "results.csv", "prompts.json", "verdict.json"
EXAMPLES = 8  # questions shown with the winner's answers


def write(folder: Path, result: EvaluationResult, rows: Sequence[Mapping[str, object]]) -> None:
    """Write every file below `folder`.

    Args:
        rows: one for each prompt and case, all with the same keys.
    """
    (folder / REPORT_FILE).write_text(markdown(result, rows), "utf-8")
    with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (folder / PROMPTS_FILE).write_text(json.dumps([asdict(item.prompt) for item in result.results], indent=2), "utf-8")
    plots.speed(result.results, folder / "speed.png")
    if result.verdict is not None:
        (folder / VERDICT_FILE).write_text(json.dumps(asdict(result.verdict), indent=2), "utf-8")
        plots.quality(result.results, result.verdict.metric, result.cases, folder / "quality.png")
        plots.differences(result.verdict, folder / "differences.png")


def markdown(result: EvaluationResult, rows: Sequence[Mapping[str, object]]) -> str:
    """The report as text: verdict, scores, comparisons, examples, and what was left out."""
    lines = ["# Prompt comparison", "", f"**{result.verdict or 'nothing to compare'}** ({result.cases} cases)", ""]
    lines += _scores(result)
    lines += _comparisons(result.verdict) if result.verdict else []
    lines += [f"Judge: {result.judge}", "", *_examples(result.winner, rows)]
    lines += [f"- Left out: {sentence}" for sentence in result.left_out]
    return "\n".join(lines) + "\n"


def _scores(result: EvaluationResult) -> list[str]:
    names = list(dict.fromkeys(name for item in result.results for name in item.scores))
    head = ["prompt", *names, "ended", "latency ms", "tokens/s"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for item in result.results:
        values = [_with_interval(item.scores.get(name)) for name in names]
        speed = f"{item.metrics['tokens_per_second']:.0f}" if "tokens_per_second" in item.metrics else ""
        more = [f"{item.metrics['ended_rate']:.0%}", f"{item.metrics['latency_ms']:.0f}", speed]
        lines += [f"| {' | '.join([item.label, *values, *more])} |"]
    note = "Means with their 95 % bootstrap intervals over the cases; latency (median) and tokens/s are of batches."
    return [*lines, "", note, ""]


def _with_interval(found: Interval | None) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else ""


def _comparisons(verdict: Verdict) -> list[str]:
    lines = [f"| {verdict.comparisons[0].leader} minus | {verdict.metric} | p (Holm) | |", "|---|---|---|---|"]
    for item in verdict.comparisons:
        difference = item.difference
        interval = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        lines += [f"| {item.other} | {interval} | {item.p_value:.4f} | {item.outcome} |"]
    return [*lines, ""]


def _examples(winner: PromptResult, rows: Sequence[Mapping[str, object]]) -> list[str]:
    shown = [row for row in rows if row["prompt"] == winner.label][:EXAMPLES]
    # An answer of several lines stays one item of the list.
    items = [" ".join(f"- **{row['question']}** {row['answer']}".split()) for row in shown]
    return [f"## What {winner.label} answered", "", *items, ""]
