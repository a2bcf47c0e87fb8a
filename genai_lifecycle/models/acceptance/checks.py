"""The checks of mode `test`: pure functions from the probe's observations to pass or fail, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.evaluation.scorers import succeeded, token_f1


@dataclass(frozen=True)
class Check:
    """One line of the test report."""

    name: str
    passed: bool
    detail: str


F1_MARGIN = 0.02  # how far the served model may fall behind what its prompt reached in the experiment
SLOWEST_TOKEN_S = 0.5  # a single answer may take this much for each token of its limit; a stuck model takes more


def all_checks(
    observed: Mapping[str, Any], cases: Sequence[Case], expected_f1: float | None, weights_sha256: str
) -> list[Check]:
    """Every check in the order of the report.

    Args:
        observed: what `probe.observe` wrote.
        cases: in the order of the questions that the probe was given.
        expected_f1: mean token F1 of the prompt in its experiment over the same cases; None skips nothing but
            the comparison.
        weights_sha256: of the base model, as the version's tag has it.
    """
    return [
        _weights(observed["weights_sha256"], weights_sha256),
        _engine(observed["engine"], observed["conversion"]),
        *[_form(name, seen, observed) for name, seen in observed["forms"].items()],
        *[_refused(name, seen) for name, seen in observed["refused"].items()],
        _parameters(observed),
        _stream(observed),
        _golden(observed["golden"]),
        _quality(observed["cases"], cases, expected_f1),
        _latency(observed["golden"]),
    ]


def _weights(found: str, expected: str) -> Check:
    right = found == expected
    return Check("weights", right, f"sha256 {found[:12]}" if right else f"sha256 {found[:12]}, not {expected[:12]}")


def _engine(engine: Mapping[str, Any], conversion: Mapping[str, Any]) -> Check:
    """The engine that the version was made for answers, not its stand-in."""
    expected = "openvino" if conversion["converted"] else "torch"
    detail = f"{engine['name']}, {engine['precision']} weights, {engine['threads']} threads"
    if engine["name"] == expected:
        return Check("engine", True, detail)
    return Check("engine", False, f"{detail}, but the version was made for {expected}: {engine['reason']}")


def _form(name: str, seen: Mapping[str, Any], observed: Mapping[str, Any]) -> Check:
    """Every form of the same question gets the same single answer."""
    expected = observed["golden"][0]["answer"]["token_ids"]
    rows = seen.get("predictions")
    right = rows is not None and len(rows) == 1 and rows[0]["token_ids"] == expected
    return Check(f"input as {name}", right, "same answer" if right else seen.get("message", f"got {rows!r}"[:200]))


def _refused(name: str, seen: Mapping[str, Any]) -> Check:
    right = _is_refusal(seen)
    return Check(f"refuses {name}", right, "refused" if right else f"was not refused clearly: {seen!r}"[:200])


def _is_refusal(seen: Mapping[str, Any]) -> bool:
    """The error code that is served as a 400."""
    return seen.get("error_code") == "INVALID_PARAMETER_VALUE"


def _parameters(observed: Mapping[str, Any]) -> Check:
    tried = observed["params"]
    failed = [name for name, seen in tried.items() if "predictions" not in seen]
    if failed:
        return Check("parameters", False, f"refused: {', '.join(failed)}")
    short, first, again = (tried[name]["predictions"][0] for name in ("short", "sampled", "sampled again"))
    problems = [
        *(["max_new_tokens=3 gave more tokens"] if short["completion_tokens"] > 3 else []),
        *(["a seeded draw differs from itself"] if first["token_ids"] != again["token_ids"] else []),
        *([] if _is_refusal(observed["bad_params"]) else ["temperature -1 was not refused clearly"]),
    ]
    return Check("parameters", not problems, "; ".join(problems) or "limits hold, a seeded draw repeats")


def _stream(observed: Mapping[str, Any]) -> Check:
    whole = observed["golden"][0]["answer"]["answer"]
    seen = observed["stream"]
    right = seen["text"] == whole == seen["last"]["answer"]
    detail = f"{seen['events']} events, same text" if right else f"streamed {seen['text']!r}, predicted {whole!r}"
    return Check("streaming", right, detail[:300])


def _golden(replayed: Sequence[Mapping[str, Any]]) -> Check:
    different = [
        item["expected"]["question"]
        for item in replayed
        if item["answer"]["token_ids"] != item["expected"]["token_ids"]
    ]
    if different:
        return Check("golden answers", False, f"{len(different)} of {len(replayed)} differ, first: {different[0]!r}")
    return Check("golden answers", True, f"{len(replayed)} of {len(replayed)} token for token")


def _quality(answers: Sequence[Mapping[str, Any]], cases: Sequence[Case], expected_f1: float | None) -> Check:
    if len(answers) != len(cases):
        return Check("case quality", False, f"{len(answers)} answers to {len(cases)} cases")
    f1 = sum(token_f1(a["answer"], c.reference) for a, c in zip(answers, cases, strict=True)) / len(cases)
    success = sum(succeeded(a["answer"], a["finish_reason"]) for a in answers) / len(cases)
    detail = f"token F1 {f1:.3f}, success rate {success:.2f} over {len(cases)} cases"
    if expected_f1 is None:
        return Check("case quality", success > 0, f"{detail}; no experiment to compare with")
    return Check("case quality", f1 >= expected_f1 - F1_MARGIN, f"{detail}; experiment {expected_f1:.3f}")


def _latency(replayed: Sequence[Mapping[str, Any]]) -> Check:
    slowest = max(replayed, key=lambda item: item["seconds"])
    limit_s = SLOWEST_TOKEN_S * slowest["expected"]["max_new_tokens"]
    median_s = sorted(item["seconds"] for item in replayed)[len(replayed) // 2]
    detail = f"median {median_s:.2f} s, slowest {slowest['seconds']:.2f} s of {limit_s:.0f} s allowed"
    return Check("latency", slowest["seconds"] <= limit_s, detail)
