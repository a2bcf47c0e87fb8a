"""Checks of an answer that need no model judge. Each is a pure function: answer and assertion in, assessment out.

The names are promptfoo's where promptfoo has the check (promptfoo.dev/docs/configuration/expected-outputs), and
`not-` in front of a name turns it round, as there. `unsupported` says which of its names are left out here.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.evaluation.answers import CaseAnswer
from genai_lifecycle.evaluation.scorers import exact_match, levenshtein, repetition, rouge_l, rouge_n, token_f1
from genai_lifecycle.store.evaluations import Assessment


@dataclass(frozen=True)
class Assertion:
    """One check that a case asks for."""

    type: str  # without `not-`
    value: Any = None
    threshold: float | None = None
    weight: float = 1.0  # 0: looked at, but without a say
    metric: str = ""  # a name to show it under
    negated: bool = False

    @property
    def name(self) -> str:
        """As results show it."""
        return self.metric or ("not-" if self.negated else "") + self.type


Check = Callable[[CaseAnswer, Assertion], tuple[float, bool, str]]  # score, passed, why


def run_check(answer: CaseAnswer, assertion: Assertion) -> Assessment:
    """Make one check. Never raises for a parsed assertion."""
    score, passed, why = CHECKS[assertion.type](answer, assertion)
    return Assessment(assertion.name, score, passed != assertion.negated, why, assertion.weight)


def all_passed(assessments: Sequence[Assessment], threshold: float | None) -> bool:
    """promptfoo's rule: every check passes; with a threshold, the weighted share that passes reaches it."""
    counted = [item for item in assessments if item.weight > 0]
    if threshold is None:
        return all(item.passed for item in counted)
    total = sum(item.weight for item in counted)
    return not total or sum(item.weight * item.passed for item in counted) / total >= threshold


# --- texts ----------------------------------------------------------------------------------------


def _equals(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    if isinstance(assertion.value, (dict, list)):
        return _yes_no(_json_of(answer.text) == assertion.value, "is", "is not", "the wanted JSON")
    return _yes_no(answer.text.strip() == str(assertion.value).strip(), "equals", "differs from", repr(assertion.value))


def _contains(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _yes_no(str(assertion.value) in answer.text, "has", "lacks", repr(assertion.value))


def _icontains(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _yes_no(str(assertion.value).lower() in answer.text.lower(), "has", "lacks", repr(assertion.value))


def _several(any_or_all: Callable[[Any], bool], fold: Callable[[str], str]) -> Check:
    def check(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
        text = fold(answer.text)
        missing = [item for item in listed(assertion.value) if fold(item) not in text]
        passed = any_or_all([fold(item) in text for item in listed(assertion.value)])
        return float(passed), passed, f"lacks {', '.join(map(repr, missing))}" if missing else "has them all"

    return check


def listed(value: Any) -> list[str]:
    """A list, or one text with commas, as promptfoo's CSV files have it."""
    items = value if isinstance(value, list) else str(value).split(",")
    return [str(item).strip() for item in items]


def _starts_with(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _yes_no(
        answer.text.startswith(str(assertion.value)), "starts", "does not start", f"with {assertion.value!r}"
    )


def _regex(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _yes_no(
        bool(re.search(str(assertion.value), answer.text)), "matches", "does not match", str(assertion.value)
    )


def _is_json(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _yes_no(_json_of(answer.text) is not _NO_JSON, "is", "is not", "valid JSON")


def _contains_json(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    starts = [match.start() for match in re.finditer(r"[\[{]", answer.text)]
    return _yes_no(any(_json_begins(answer.text[at:]) for at in starts), "holds", "holds no", "valid JSON")


_NO_JSON = object()


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _NO_JSON


def _json_begins(text: str) -> bool:
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError:
        return False
    return True


def _yes_no(passed: bool, yes: str, no: str, what: str) -> tuple[float, bool, str]:
    return float(passed), passed, f"{yes if passed else no} {what}"


# --- against a reference --------------------------------------------------------------------------


def _similar(score: Callable[[str, str], float], least: float) -> Check:
    """A score from 0 to 1 against the value, or the case's reference where there is none."""

    def check(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
        value = score(answer.text, str(assertion.value) if assertion.value is not None else answer.reference)
        limit = least if assertion.threshold is None else assertion.threshold
        return value, value >= limit, f"{value:.3f}, at least {limit:g} wanted"

    return check


def _levenshtein(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    text = str(assertion.value) if assertion.value is not None else answer.reference
    return _at_most(levenshtein(answer.text, text), assertion, 5, "edits")


def _log_likelihood(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    if answer.log_likelihood is None:
        return 0.0, False, "there is no log-likelihood"
    limit = -1.0 if assertion.threshold is None else assertion.threshold
    return answer.log_likelihood, answer.log_likelihood >= limit, f"{answer.log_likelihood:.3f} nats a token"


# --- lengths, times -------------------------------------------------------------------------------


def _at_most(value: float, assertion: Assertion, default: float, unit: str) -> tuple[float, bool, str]:
    limit = default if assertion.threshold is None else assertion.threshold
    return value, value <= limit, f"{value:g} {unit}, at most {limit:g} wanted"


def _repetition(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _at_most(round(repetition(answer.text), 4), assertion, 0.2, "of the word triples occur twice")


def _latency(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _at_most(round(answer.latency_ms, 1), assertion, 10_000, "ms")


def _tokens(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _within(answer.completion_tokens, assertion, "tokens")


def _word_count(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    exact = None if isinstance(assertion.value, dict) or assertion.value is None else float(assertion.value)
    if exact is not None:  # promptfoo: a bare number is the exact count
        count = len(answer.text.split())
        return float(count), count == exact, f"{count} words, {exact:g} wanted"
    return _within(len(answer.text.split()), assertion, "words")


def _length(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _within(len(answer.text), assertion, "characters")


def _within(count: int, assertion: Assertion, unit: str) -> tuple[float, bool, str]:
    """Between `min` and `max` of the value; a bare number, or the threshold, is the most."""
    least, most = limits(assertion)
    return float(count), least <= count <= most, f"{count} {unit}, {least:g} to {most:g} wanted"


def limits(assertion: Assertion) -> tuple[float, float]:
    """(least, most) that a check of a length allows. Raises ValueError or TypeError for what is no number."""
    if isinstance(assertion.value, Mapping):
        return float(assertion.value.get("min", 0)), float(assertion.value.get("max", "inf"))
    most = assertion.threshold if assertion.value is None else assertion.value
    return 0.0, float("inf" if most is None else most)


def _finish_reason(answer: CaseAnswer, assertion: Assertion) -> tuple[float, bool, str]:
    return _yes_no(answer.finish_reason == assertion.value, "ended by", "did not end by", str(assertion.value))


CHECKS: dict[str, Check] = {
    "equals": _equals,
    "contains": _contains,
    "icontains": _icontains,
    "contains-any": _several(any, str),
    "contains-all": _several(all, str),
    "icontains-any": _several(any, str.lower),
    "icontains-all": _several(all, str.lower),
    "starts-with": _starts_with,
    "regex": _regex,
    "is-json": _is_json,
    "contains-json": _contains_json,
    "levenshtein": _levenshtein,
    "rouge-n": _similar(rouge_n, 0.75),
    "latency": _latency,
    "word-count": _word_count,
    "finish-reason": _finish_reason,
    # Not in promptfoo:
    "rouge-l": _similar(rouge_l, 0.5),
    "token-f1": _similar(token_f1, 0.5),
    "exact-match": _similar(exact_match, 1.0),
    "log-likelihood": _log_likelihood,
    "repetition": _repetition,
    "length": _length,
    "tokens": _tokens,
}
NEEDS_VALUE = {"equals", "contains", "icontains", "contains-any", "contains-all", "icontains-any", "icontains-all",
               "starts-with", "regex", "finish-reason"}  # fmt: skip
NEEDS_REFERENCE = {"levenshtein", "rouge-n", "rouge-l", "token-f1", "exact-match"}  # or a value
_JUDGED = {"llm-rubric", "g-eval", "factuality", "model-graded-closedqa", "answer-relevance", "context-recall",
           "context-relevance", "context-faithfulness", "conversation-relevance", "select-best", "max-score", "pi",
           "search-rubric", "moderation"}  # fmt: skip
_CODE = {"javascript", "python", "ruby", "webhook"}
_OTHER = {"similar", "classifier", "bleu", "gleu", "meteor", "perplexity", "perplexity-score", "cost", "is-sql",
          "contains-sql", "is-xml", "contains-xml", "is-html", "contains-html", "is-refusal", "guardrails",
          "is-valid-function-call", "is-valid-openai-function-call", "is-valid-openai-tools-call", "tool-call-f1",
          "assert-set", "trace-span-count", "trace-span-duration", "trace-error-spans"}  # fmt: skip


def unsupported(kind: str) -> str | None:
    """Why a check of promptfoo is not made here; None for one that is made, or that nobody knows."""
    kind = kind.removeprefix("not-")
    if kind in _JUDGED:
        return "needs a model judge: give --scorer Correctness or another scorer of MLflow"
    if kind in _CODE:
        return "runs code from the case file"
    return "has no counterpart here" if kind in _OTHER else None


def nearest(kind: str) -> str:
    """The known names that a misspelt one may have meant, or all."""
    close = difflib.get_close_matches(kind.removeprefix("not-"), CHECKS, 3)
    return ", ".join(close or CHECKS)
