"""What the modes experiment and evaluate tell a person, as text. `main.py` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult

SHOWN_SCORES = ("token_f1", "rouge_l", "passed")  # the others stand in the report


def of_experiment(result: EvaluationResult) -> str:
    """A line for each template, best first, and what follows from it."""
    return _of("Experiment", result)


def of_evaluation(result: EvaluationResult) -> str:
    """Two lines for each prompt and model version, best first, and what follows from it."""
    return _of("Evaluation", result, with_runs=True)


def _of(title: str, result: EvaluationResult, *, with_runs: bool = False) -> str:
    again = f", {result.reused} answers from before" if result.reused else ""
    counts = f"{result.cases} cases, {len(result.results)} prompts, {result.rows} answers, run {result.run_id}"
    lines = [f"\n{title:11} {counts}{again}"]
    for item in result.results:
        lines += [_scores(item), *([f"    experiment {item.experiment}, run {item.run_id}"] if with_runs else [])]
    lines += [f"  {result.verdict}"] if result.verdict else []
    lines += [f"  Judge: {result.judge}", *(f"  Left out: {sentence}" for sentence in result.left_out)]
    lines += [f"  Gate: {result.decision}"] if result.decision else []
    lines += [f"  {result.in_production.label} is in production"] if result.in_production else []
    spent = f"  {result.compute_s:.0f} s answering and scoring, {result.mlflow_s:.0f} s MLflow's own writing"
    return "\n".join([*lines, spent])


def _scores(item: PromptResult) -> str:
    shown = [
        f"{name} {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
        for name, found in item.scores.items()
        if name in SHOWN_SCORES
    ]
    speed = item.metrics.get("tokens_per_second")
    shown += [f"ended {item.metrics['ended_rate']:.0%}", *([f"{speed:.0f} tokens/s"] if speed else [])]
    return f"  {item.label:24} {'  '.join(shown)}"
