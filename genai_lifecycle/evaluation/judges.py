"""Which of MLflow's GenAI scorers judge the answers: those that were named, or two where a judge model answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.store import evaluations
from genai_lifecycle.store.evaluations import JudgeFailed

log = logging.getLogger(__name__)

JUDGES = ("Correctness", "RelevanceToQuery")  # where a judge is configured and no scorer is named


@dataclass(frozen=True)
class Judges:
    """The scorers of an evaluation; none, where `summary` says why."""

    scorers: tuple[Any, ...]
    summary: str

    def summary_with(self, failures: int) -> str:
        """Args:
        failures: answers that were not judged.
        """
        return f"{self.summary}; {failures} answers were not judged" if failures else self.summary


def choose(names: Sequence[str], model: str | None) -> Judges:
    """The scorers that were named, or `JUDGES` where the judge model answers one question first.

    A judge is an opinion beside the scores: without it an evaluation is still whole, and says so.

    Args:
        model: MLflow's address of the judge, for example `openai:/gpt-4o-mini`; the endpoint and its key come
            from OPENAI_BASE_URL (or OPENAI_API_BASE) and OPENAI_API_KEY.

    Raises:
        ConfigError: a scorer is unknown, or needs a judge and there is none.
    """
    if names:
        return Judges(tuple(evaluations.judges(names, model)), _summary(names, model))
    if why := why_not(model):
        return Judges((), f"skipped: {why}")
    scorers = evaluations.judges(JUDGES, model)
    try:
        evaluations.try_judge(scorers[0])
    except JudgeFailed as exc:
        log.warning("The judge %s failed: %s", model, exc)
        return Judges((), f"skipped: {model} failed: {exc}")
    return Judges(tuple(scorers), _summary(JUDGES, model))


def why_not(model: str | None) -> str:
    """Why no judge can be asked; empty when one can."""
    if not model:
        return "no judge model is configured (--judge-model or LIFECYCLE_JUDGE_MODEL)"
    if model.startswith("openai:/") and not os.environ.get("OPENAI_API_KEY"):
        return "OPENAI_API_KEY is not set (any text will do for a local endpoint)"
    return ""


def _summary(names: Sequence[str], model: str | None) -> str:
    return f"{', '.join(names)} by {model}" if model else ", ".join(names)
