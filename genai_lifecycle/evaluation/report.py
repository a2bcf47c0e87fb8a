"""What an experiment leaves for people: a Markdown report, the results table, the prompts and the plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from genai_lifecycle.evaluation import plots
from genai_lifecycle.results import ExperimentResult, TemplateScore

REPORT_FILE, TABLE_FILE, PROMPTS_FILE = "report.md", "results.csv", "prompts.json"
_SHOWN = ("token_f1", "log_likelihood", "success_rate", "ended_rate", "answer_words", "seconds_per_answer",
          "tokens_per_second")  # fmt: skip
EXAMPLES = 8  # questions shown with the winner's answers


def write(folder: Path, result: ExperimentResult, rows: Sequence[Mapping[str, object]]) -> None:
    """Write every file below `folder`.

    Args:
        rows: one for each prompt and case, all with the same keys.
    """
    (folder / REPORT_FILE).write_text(markdown(result, rows), "utf-8")
    with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    prompts = [score.prompt for score in result.scores]
    records = [{"name": p.name, "version": p.version, "template": p.template} for p in prompts]
    (folder / PROMPTS_FILE).write_text(json.dumps(records, indent=2), "utf-8")
    plots.quality(result.scores, result.cases, folder / "quality.png")
    plots.speed(result.scores, folder / "speed.png")


def markdown(result: ExperimentResult, rows: Sequence[Mapping[str, object]]) -> str:
    """The report as text."""
    lines = ["# Prompt comparison", "", f"**{result.verdict}** ({result.cases} cases, greedy answers)", ""]
    lines += [_header(), "|" + "---|" * (len(_SHOWN) + 2), *map(_row, result.scores), ""]
    lines += [
        "Intervals are bootstrap intervals over the cases. Seconds and tokens per second are of batched generation.",
        "",
    ]
    lines += [f"Judge: {result.judge}", "", f"## What {result.winner} answered", ""]
    winners = [row for row in rows if row["prompt"] == result.winner.name][:EXAMPLES]
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
