"""Checks of an answer that need no model judge. Each is a pure function: answer and assertion in, finding out.

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
from genai_lifecycle.store.evaluations import Finding


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


def run_check(answered: CaseAnswer, wanted: Assertion) -> Finding:
    """Make one check. Never raises for a parsed assertion."""
    score, passed, why = CHECKS[wanted.type](answered, wanted)
    return Finding(wanted.name, score, passed != wanted.negated, why, wanted.weight)


def all_passed(findings: Sequence[Finding], threshold: float | None) -> bool:
    """promptfoo's rule: every check passes; with a threshold, the weighted share that passes reaches it."""
    counted = [item for item in findings if item.weight > 0]
    if threshold is None:
        return all(item.passed for item in counted)
    total = sum(item.weight for item in counted)
    return not total or sum(item.weight * item.passed for item in counted) / total >= threshold


# --- texts ----------------------------------------------------------------------------------------


def _equals(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    if isinstance(wanted.value, (dict, list)):
        return _yes_no(_json_of(answered.text) == wanted.value, "is", "is not", "the wanted JSON")
    return _yes_no(answered.text.strip() == str(wanted.value).strip(), "equals", "differs from", repr(wanted.value))


def _contains(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _yes_no(str(wanted.value) in answered.text, "has", "lacks", repr(wanted.value))


def _icontains(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _yes_no(str(wanted.value).lower() in answered.text.lower(), "has", "lacks", repr(wanted.value))


def _several(any_or_all: Callable[[Any], bool], fold: Callable[[str], str]) -> Check:
    def check(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
        text = fold(answered.text)
        missing = [item for item in listed(wanted.value) if fold(item) not in text]
        found = any_or_all([fold(item) in text for item in listed(wanted.value)])
        return float(found), found, f"lacks {', '.join(map(repr, missing))}" if missing else "has them all"

    return check


def listed(value: Any) -> list[str]:
    """A list, or one text with commas, as promptfoo's CSV files have it."""
    items = value if isinstance(value, list) else str(value).split(",")
    return [str(item).strip() for item in items]


def _starts_with(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _yes_no(answered.text.startswith(str(wanted.value)), "starts", "does not start", f"with {wanted.value!r}")


def _regex(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _yes_no(bool(re.search(str(wanted.value), answered.text)), "matches", "does not match", str(wanted.value))


def _is_json(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _yes_no(_json_of(answered.text) is not _NO_JSON, "is", "is not", "valid JSON")


def _contains_json(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    starts = [match.start() for match in re.finditer(r"[\[{]", answered.text)]
    return _yes_no(any(_json_begins(answered.text[at:]) for at in starts), "holds", "holds no", "valid JSON")


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


def _yes_no(found: bool, yes: str, no: str, what: str) -> tuple[float, bool, str]:
    return float(found), found, f"{yes if found else no} {what}"


# --- against a reference --------------------------------------------------------------------------


def _similar(score: Callable[[str, str], float], least: float) -> Check:
    """A score from 0 to 1 against the value, or the case's reference where there is none."""

    def check(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
        found = score(answered.text, str(wanted.value) if wanted.value is not None else answered.reference)
        limit = least if wanted.threshold is None else wanted.threshold
        return found, found >= limit, f"{found:.3f}, at least {limit:g} wanted"

    return check


def _levenshtein(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    text = str(wanted.value) if wanted.value is not None else answered.reference
    return _at_most(levenshtein(answered.text, text), wanted, 5, "edits")


def _log_likelihood(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    if answered.log_likelihood is None:
        return 0.0, False, "there is no log-likelihood"
    limit = -1.0 if wanted.threshold is None else wanted.threshold
    return answered.log_likelihood, answered.log_likelihood >= limit, f"{answered.log_likelihood:.3f} nats a token"


# --- lengths, times -------------------------------------------------------------------------------


def _at_most(found: float, wanted: Assertion, default: float, unit: str) -> tuple[float, bool, str]:
    limit = default if wanted.threshold is None else wanted.threshold
    return found, found <= limit, f"{found:g} {unit}, at most {limit:g} wanted"


def _repetition(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _at_most(round(repetition(answered.text), 4), wanted, 0.2, "of the word triples occur twice")


def _latency(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _at_most(round(answered.latency_ms, 1), wanted, 10_000, "ms")


def _tokens(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _within(answered.completion_tokens, wanted, "tokens")


def _word_count(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    exact = None if isinstance(wanted.value, dict) or wanted.value is None else float(wanted.value)
    if exact is not None:  # promptfoo: a bare number is the exact count
        count = len(answered.text.split())
        return float(count), count == exact, f"{count} words, {exact:g} wanted"
    return _within(len(answered.text.split()), wanted, "words")


def _length(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _within(len(answered.text), wanted, "characters")


def _within(count: int, wanted: Assertion, unit: str) -> tuple[float, bool, str]:
    """Between `min` and `max` of the value; a bare number, or the threshold, is the most."""
    least, most = limits(wanted)
    return float(count), least <= count <= most, f"{count} {unit}, {least:g} to {most:g} wanted"


def limits(wanted: Assertion) -> tuple[float, float]:
    """(least, most) that a check of a length allows. Raises ValueError or TypeError for what is no number."""
    if isinstance(wanted.value, Mapping):
        return float(wanted.value.get("min", 0)), float(wanted.value.get("max", "inf"))
    most = wanted.threshold if wanted.value is None else wanted.value
    return 0.0, float("inf" if most is None else most)


def _finish_reason(answered: CaseAnswer, wanted: Assertion) -> tuple[float, bool, str]:
    return _yes_no(answered.finish_reason == wanted.value, "ended by", "did not end by", str(wanted.value))


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
