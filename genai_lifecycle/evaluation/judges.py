"""MLflow's own GenAI scorers with a judge model, where one is configured (any OpenAI-compatible endpoint)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.tracking.seam import seam

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """What the judge said of one prompt's answers; `metrics` are shares of yes, 0 to 1."""

    summary: str
    metrics: dict[str, float] = field(default_factory=dict)


def judge(model: str | None, answers: Sequence[tuple[Case, str]]) -> Judged:
    """Correctness and RelevanceToQuery of each answer, or why they were skipped.

    Args:
        model: MLflow's address of the judge, for example `openai:/gpt-4o-mini`; the endpoint and its key come
            from OPENAI_BASE_URL (or OPENAI_API_BASE) and OPENAI_API_KEY.
    """
    if not model:
        return _skipped("no judge model is configured (--judge-model or LIFECYCLE_JUDGE_MODEL)")
    if model.startswith("openai:/") and not os.environ.get("OPENAI_API_KEY"):
        return _skipped("OPENAI_API_KEY is not set (any text will do for a local endpoint)")
    return _ask(model, answers)


def _skipped(why: str) -> Judged:
    log.info("The judge's scorers Correctness and RelevanceToQuery are skipped: %s.", why)
    return Judged(f"skipped: {why}")


@seam
def _ask(model: str, answers: Sequence[tuple[Case, str]]) -> Judged:
    from mlflow.exceptions import MlflowException
    from mlflow.genai.scorers import Correctness, RelevanceToQuery

    said: dict[str, list[bool]] = {"judge_correctness": [], "judge_relevance": []}
    try:
        for case, answer in answers:
            question = {"question": case.question}
            correct = Correctness(model=model)(
                inputs=question, outputs=answer, expectations={"expected_response": case.reference}
            )
            relevant = RelevanceToQuery(model=model)(inputs=question, outputs=answer)
            said["judge_correctness"].append(_is_yes(correct))
            said["judge_relevance"].append(_is_yes(relevant))
    except MlflowException as exc:
        # The judge is an opinion beside the scores: without it the experiment is still whole, and says so.
        reason = str(exc).strip().splitlines()[0][:200]
        log.warning("The judge %s failed after %d answers: %s", model, len(said["judge_relevance"]), reason)
        return Judged(f"failed after {len(said['judge_relevance'])} of {len(answers)} answers: {reason}")
    metrics = {name: sum(values) / len(values) for name, values in said.items()}
    summary = ", ".join(f"{name.removeprefix('judge_')} {value:.2f}" for name, value in metrics.items())
    return Judged(f"{model}: {summary} over {len(answers)} answers", metrics)


def _is_yes(feedback) -> bool:
    return str(feedback.value).lower() in ("yes", "true")
