"""MLflow's own GenAI scorers with a judge model, where one is configured (any OpenAI-compatible endpoint)."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from genai_lifecycle.evaluation.cases import Case

log = logging.getLogger(__name__)

REPLY_TIMEOUT_S = 60.0  # MLflow alone would ask a judge that is gone again and again for three minutes


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
    if why := why_not(model):
        return Judged(f"skipped: {why}")
    return _ask(model or "", answers)


def why_not(model: str | None) -> str:
    """Why no judge can be asked; empty when one can."""
    if not model:
        return "no judge model is configured (--judge-model or LIFECYCLE_JUDGE_MODEL)"
    if model.startswith("openai:/") and not os.environ.get("OPENAI_API_KEY"):
        return "OPENAI_API_KEY is not set (any text will do for a local endpoint)"
    return ""


def _ask(model: str, answers: Sequence[tuple[Case, str]]) -> Judged:
    from mlflow.genai.scorers import Correctness, RelevanceToQuery

    said: dict[str, list[bool]] = {"judge_correctness": [], "judge_relevance": []}
    try:
        for case, answer in answers:
            asked = {"inputs": {"question": case.question}, "outputs": answer}
            expected = {"expectations": {"expected_response": case.reference}}
            said["judge_correctness"].append(_says_yes(Correctness, model, asked | expected))
            said["judge_relevance"].append(_says_yes(RelevanceToQuery, model, asked))
    except _NoVerdict as exc:
        # The judge is an opinion beside the scores: without it the experiment is still whole, and says so.
        judged = len(said["judge_relevance"])
        log.warning("The judge %s failed after %d of %d answers: %s", model, judged, len(answers), exc)
        return Judged(f"failed after {judged} of {len(answers)} answers: {exc}")
    metrics = {name: sum(values) / len(values) for name, values in said.items()}
    summary = ", ".join(f"{name.removeprefix('judge_')} {value:.2f}" for name, value in metrics.items())
    return Judged(f"{model}: {summary} over {len(answers)} answers", metrics)


class _NoVerdict(Exception):
    """The judge gave no answer, or one that is neither yes nor no."""


def _says_yes(scorer: Callable, model: str, asked: Mapping[str, object]) -> bool:
    """One question to the judge, in a thread of its own: MLflow's retries cannot be shortened."""
    replies: queue.Queue = queue.Queue()

    def work() -> None:
        try:
            replies.put(scorer(model=model)(**asked).value)
        except Exception as exc:  # noqa: BLE001 - handed on below; a judge's odd answer is a KeyError, a TypeError, ...
            replies.put(exc)

    threading.Thread(target=work, daemon=True).start()
    try:
        reply = replies.get(timeout=REPLY_TIMEOUT_S)
    except queue.Empty:
        raise _NoVerdict(f"no answer within {REPLY_TIMEOUT_S:.0f} s") from None
    if str(reply).lower() in ("yes", "true", "no", "false"):
        return str(reply).lower() in ("yes", "true")
    raise _NoVerdict(_described(reply)) from (reply if isinstance(reply, Exception) else None)


def _described(reply: object) -> str:
    """In one line; the bare message of a KeyError would say too little."""
    if isinstance(reply, Exception):
        lines = str(reply).strip().splitlines() or [""]
        return f"{type(reply).__name__}: {lines[0]}"[:200]
    return f"it said {reply!r} instead of yes or no"[:200]
