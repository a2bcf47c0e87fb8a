"""Which precision the OpenVINO engine's weights get: the fastest whose answers stay those of fp32.

fp32 must give transformers' own greedy tokens, or the deploy fails. int8 may differ, within the stated tolerance.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genai_lifecycle.errors import ConversionFailed
from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.evaluation.scorers import token_f1
from genai_lifecycle.models.conversion import ir
from genai_lifecycle.models.generation import (
    Answer,
    TextModel,
    answers_together,
    load_converted,
    reference_log_likelihoods,
)

log = logging.getLogger(__name__)

AUTO, FP32, INT8 = "auto", "fp32", "int8"
CONVERSION_FILE = "conversion.json"  # read by served_model/text_generation/choice.py

# How far int8 may be from fp32 over the cases, for `auto` to take it.
LEAST_EQUAL = 0.95  # share of whole answers that are the same, token for token
LEAST_TOKEN_F1 = 0.98  # mean of the answers against fp32's
MOST_LOG_LIKELIHOOD_GAP = 0.02  # mean absolute difference of the references' mean log-likelihoods, nats a token
LEAST_SPEED_UP = 1.02  # of answering all cases together; below it the smaller weights are not worth a difference
GROUP = "int8_activation_group"  # the figure that says which way of `ir.activation_groups` it was
_TIMED_RUNS = 2  # the better one counts


@dataclass(frozen=True)
class Trial:
    """What the converted model is tried with, in the words it will be asked in."""

    turn_format: str
    template: str
    golden_questions: Sequence[str]
    golden_token_ids: Sequence[Sequence[int]]  # transformers' greedy answers to them
    cases: Sequence[Case]
    max_new_tokens: int


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint; written beside the IR."""

    converted: bool
    precision: str  # fp32 | int8; fp32 where nothing was converted
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)


def convert_checkpoint(model: Path, target: Path, trial: Trial, wanted: str) -> Conversion:
    """Convert the checkpoint in `model`, choose a precision and write the IR with its record into `target`.

    A checkpoint that is not covered leaves a record that says so, and the torch engine will answer.

    Raises:
        ConversionFailed: the fp32 model gives other greedy tokens than transformers.
    """
    model_type = json.loads((model / "config.json").read_text("utf-8")).get("model_type")
    if not ir.is_covered(model_type):
        return not_converted(target, f"the architecture {model_type!r} is not converted")
    converted = ir.convert(model)
    ir.save(converted, target / FP32)
    with closing(load_converted(model, target / FP32, trial.turn_format, FP32)) as exact:
        _require_same_tokens(exact, trial)
        if wanted == FP32:
            conversion = Conversion(True, FP32, "asked for")
        else:
            conversion = _compared(model, target, exact, trial, wanted, ir.int8_weights(converted))
    _keep(target, conversion.precision)
    return _recorded(target, conversion)


def _require_same_tokens(exact: TextModel, trial: Trial) -> None:
    """The golden questions, in a crowd, get transformers' greedy tokens."""
    given = answers_together(exact, trial.template, trial.golden_questions, trial.max_new_tokens)
    for question, expected, answer in zip(trial.golden_questions, trial.golden_token_ids, given, strict=True):
        if list(expected) != answer.token_ids:
            raise ConversionFailed(
                f"The converted model answers {question!r} with other tokens than transformers.",
                hint="Deploy with --engine torch, and report the checkpoint.",
            )


def _compared(model: Path, target: Path, exact: TextModel, trial: Trial, wanted: str, weights: Any) -> Conversion:
    """Take int8 in the fastest way that keeps within the tolerance; fp32 where none does, unless int8 was asked for."""
    tried = []
    for group in ir.activation_groups(json.loads((model / "config.json").read_text("utf-8"))):
        figures = _tried(model, target, exact, trial, weights, group)
        missed = _missed(figures)
        tried.append((figures, missed))
        if not missed:
            told = f"{figures['int8_speed_up']:.1f} times as fast as fp32 within the tolerance"
            return Conversion(True, INT8, "asked for" if wanted == INT8 else told, figures)
    if wanted == INT8:  # no way keeps it, so the fastest
        figures, _ = tried[0]
        ir.save(ir.with_activation_group(weights, int(figures[GROUP])), target / INT8)
        return Conversion(True, INT8, "asked for", figures)
    figures, missed = tried[-1]
    return Conversion(True, FP32, f"int8 was tried: {missed}", figures)


def _tried(model: Path, target: Path, exact: TextModel, trial: Trial, weights: Any, group: int) -> dict[str, float]:
    """Write the int8 model with this group size, and answer the cases in both precisions."""
    ir.save(ir.with_activation_group(weights, group), target / INT8)
    with closing(load_converted(model, target / INT8, trial.turn_format, INT8)) as small:
        return {**_figures(exact, small, trial), GROUP: group}


def _figures(exact: TextModel, small: TextModel, trial: Trial) -> dict[str, float]:
    (exact_s, expected), (small_s, given) = _answered(exact, trial), _answered(small, trial)
    pairs = list(zip(expected, given, strict=True))
    gaps = [abs(a - b) for a, b in zip(_likelihoods(exact, trial), _likelihoods(small, trial), strict=True)]
    return {
        "int8_equal_answers": statistics.fmean(a.token_ids == b.token_ids for a, b in pairs),
        "int8_token_f1": statistics.fmean(token_f1(b.answer, a.answer) for a, b in pairs),
        "int8_log_likelihood_gap": statistics.fmean(gaps),
        "int8_speed_up": exact_s / small_s,
    }


def _answered(model: TextModel, trial: Trial) -> tuple[float, list[Answer]]:
    """Seconds of the better run, and the answers to all cases."""
    questions, taken = [case.question for case in trial.cases], []
    for _ in range(_TIMED_RUNS):
        started = time.monotonic()
        answers = answers_together(model, trial.template, questions, trial.max_new_tokens)
        taken.append(time.monotonic() - started)
    return min(taken), answers


def _likelihoods(model: TextModel, trial: Trial) -> list[float]:
    return reference_log_likelihoods(model, trial.template, trial.cases)


def _missed(figures: Mapping[str, float]) -> str:
    """The first bound that int8 does not keep; empty when it keeps them all."""
    if not (equal := figures["int8_equal_answers"]) >= LEAST_EQUAL:  # not <: NaN keeps no bound
        return f"{equal:.0%} of its answers equal those of fp32, at least {LEAST_EQUAL:.0%} must"
    if not (f1 := figures["int8_token_f1"]) >= LEAST_TOKEN_F1:
        return f"its answers have token F1 {f1:.3f} against those of fp32, at least {LEAST_TOKEN_F1} is needed"
    if not (gap := figures["int8_log_likelihood_gap"]) <= MOST_LOG_LIKELIHOOD_GAP:
        return f"its log-likelihoods are {gap:.3f} from those of fp32, at most {MOST_LOG_LIKELIHOOD_GAP} may be"
    if not (speed_up := figures["int8_speed_up"]) >= LEAST_SPEED_UP:
        return f"it is {speed_up:.2f} times as fast, at least {LEAST_SPEED_UP} is needed"
    return ""


def not_converted(target: Path, reason: str) -> Conversion:
    """Write the record of a model that the torch engine is to answer for."""
    return _recorded(target, Conversion(False, FP32, reason))


def _keep(target: Path, precision: str) -> None:
    """Move the chosen IR up, and drop the other one."""
    for path in (target / precision).iterdir():
        path.rename(target / path.name)
    for folder in (FP32, INT8):
        for path in (target / folder).glob("*"):
            path.unlink()
        if (target / folder).is_dir():
            (target / folder).rmdir()


def _recorded(target: Path, conversion: Conversion) -> Conversion:
    target.mkdir(parents=True, exist_ok=True)
    (target / CONVERSION_FILE).write_text(json.dumps(asdict(conversion), indent=2), "utf-8")
    if conversion.converted:
        log.info("Converted for OpenVINO with %s weights: %s.", conversion.precision, conversion.reason)
    else:
        log.info("Not converted for OpenVINO: %s; the torch engine will answer.", conversion.reason)
    return conversion
