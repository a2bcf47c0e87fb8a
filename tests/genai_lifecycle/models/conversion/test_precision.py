"""Which precision is taken, and what is recorded of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import LESSONS, TEMPLATE, rendered, transformers_greedy

from genai_lifecycle.errors import ConversionFailed
from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.models.conversion import ir, precision
from genai_lifecycle.models.conversion.precision import Trial, convert_checkpoint, not_converted
from genai_lifecycle.models.generation import answers_together, load_converted
from served_model.text_generation.checkpoint import load_tokenizer
from served_model.text_generation.choice import Wanted as WantedEngine
from served_model.text_generation.choice import choose_engine


@pytest.fixture(scope="module")
def taught(lessons_gpt2):
    return lessons_gpt2


@pytest.fixture(scope="module")
def trial(taught) -> Trial:
    tokenizer = load_tokenizer(taught)
    prompts = [tokenizer.encode(rendered(question)).ids for question in LESSONS]
    golden = transformers_greedy(taught, prompts, 48)
    cases = [Case(question, answer) for question, answer in LESSONS.items()]
    return Trial("plain", TEMPLATE, list(LESSONS), golden, cases, 48)


@pytest.fixture(scope="module")
def traced(taught):
    """The conversion itself is tested in test_ir.py; here it is done once."""
    return ir.convert(taught)


@pytest.fixture
def converted(taught, trial, traced, tmp_path, monkeypatch):
    """What a wish leads to: the conversion, and the folder with what was written."""
    monkeypatch.setattr(ir, "convert", lambda _: traced.clone())

    def convert(wanted, **changed):
        target = tmp_path / "ir"
        return convert_checkpoint(taught, target, replace(trial, **changed), wanted), target

    return convert


def record_in(target) -> dict:
    return json.loads((target / "conversion.json").read_text())


def bytes_in(target) -> int:
    return (target / "openvino_model.bin").stat().st_size


def workers() -> list[str]:
    """Engine processes of this one that are still there."""
    pids = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in pids if "openvino_worker" in Path(f"/proc/{pid}/cmdline").read_text()]


FILES = ["conversion.json", "openvino_model.bin", "openvino_model.xml"]
KEPT = {"int8_equal_answers": 1.0, "int8_token_f1": 1.0, "int8_log_likelihood_gap": 0.0, "int8_speed_up": 2.0}


def files_in(target) -> list[str]:
    return sorted(path.name for path in target.iterdir())


def test_fp32_when_it_is_asked_for(converted, taught, trial):
    conversion, target = converted("fp32")
    assert (conversion.converted, conversion.precision, conversion.reason) == (True, "fp32", "asked for")
    assert record_in(target) == {"converted": True, "precision": "fp32", "reason": "asked for", "figures": {}}
    assert files_in(target) == FILES
    assert bytes_in(target) > 120_000
    model = load_converted(taught, target, "plain", "fp32")
    answers = answers_together(model, TEMPLATE, list(LESSONS), 48)
    model.close()
    assert [answer.token_ids for answer in answers] == list(trial.golden_token_ids)


def test_int8_when_it_is_asked_for(converted, monkeypatch):
    monkeypatch.setattr(precision, "LEAST_EQUAL", 2.0)  # no bound is asked
    conversion, target = converted("int8")
    assert (conversion.precision, conversion.reason) == ("int8", "asked for")
    assert set(conversion.figures) == {*KEPT, "int8_activation_group"}
    assert workers() == []  # the two engines that were compared are closed
    assert record_in(target)["figures"] == conversion.figures
    assert files_in(target) == FILES
    assert bytes_in(target) < 45_000


def test_auto_measures_both_and_records_its_choice(converted):
    conversion, target = converted("auto")
    figures = conversion.figures
    assert 0 <= figures["int8_equal_answers"] <= 1
    assert 0 <= figures["int8_token_f1"] <= 1
    assert 0 < figures["int8_log_likelihood_gap"] < 0.5
    assert figures["int8_speed_up"] > 0
    kept = not precision._missed(figures)
    assert conversion.precision == ("int8" if kept else "fp32")
    assert (bytes_in(target) < 45_000) is kept
    assert record_in(target) == {
        "converted": True, "precision": conversion.precision, "reason": conversion.reason, "figures": figures,
    }  # fmt: skip
    assert files_in(target) == FILES


@pytest.mark.parametrize(
    ("changed", "taken", "reason"),
    [
        ({}, "int8", "2.0 times as fast as fp32 within the tolerance"),
        ({"int8_equal_answers": 0.94}, "fp32", "int8 was tried: 94% of its answers equal those of fp32, at least 95%"),
        ({"int8_equal_answers": 0.95}, "int8", "within the tolerance"),
        ({"int8_token_f1": 0.979}, "fp32", "token F1 0.979 against those of fp32, at least 0.98 is needed"),
        ({"int8_token_f1": 0.98}, "int8", "within the tolerance"),
        ({"int8_log_likelihood_gap": 0.021}, "fp32", "log-likelihoods are 0.021 from those of fp32, at most 0.02"),
        ({"int8_log_likelihood_gap": 0.02}, "int8", "within the tolerance"),
        ({"int8_speed_up": 1.01}, "fp32", "it is 1.01 times as fast, at least 1.02 is needed"),
        ({"int8_speed_up": 1.02}, "int8", "1.0 times as fast"),
    ],
    ids=str,
)
def test_the_bounds_decide(converted, monkeypatch, changed, taken, reason):
    without_engines(monkeypatch, [KEPT | changed])
    conversion, target = converted("auto")
    assert conversion.precision == taken
    assert reason in conversion.reason
    assert record_in(target)["figures"] == KEPT | changed | {"int8_activation_group": 32}
    assert files_in(target) == FILES


COARSE = KEPT | {"int8_equal_answers": 0.8}


@pytest.mark.parametrize(
    ("wanted", "figures", "precision_taken", "group"),
    [
        ("auto", [KEPT], "int8", 64),
        ("auto", [COARSE, KEPT], "int8", 32),
        ("auto", [COARSE, COARSE], "fp32", None),
        ("int8", [KEPT], "int8", 64),
        ("int8", [COARSE, KEPT], "int8", 32),
        ("int8", [COARSE, COARSE], "int8", 64),
    ],
    ids=str,
)
def test_the_fastest_rounding_within_the_tolerance(converted, monkeypatch, wanted, figures, precision_taken, group):
    without_engines(monkeypatch, figures)
    monkeypatch.setattr(ir, "activation_groups", lambda config: (64, 32))
    conversion, target = converted(wanted)
    assert conversion.precision == precision_taken
    assert group_in(target) == group


def without_engines(monkeypatch, figures):
    """Every trial has the next of these figures; engines are started in the tests above."""
    left = iter(figures)
    monkeypatch.setattr(precision, "_figures", lambda *_: next(left))
    for name in ("load_converted", "_require_same_tokens"):
        monkeypatch.setattr(precision, name, lambda *_: Nothing())
    monkeypatch.setattr(ir, "int8_weights", lambda model: model.clone())


def group_in(target) -> int | None:
    """What the written model says of itself."""
    found = re.search(r'DYNAMIC_QUANTIZATION_GROUP_SIZE value="(\d+)"', (target / "openvino_model.xml").read_text())
    return int(found.group(1)) if found else None


@pytest.mark.parametrize(("width", "groups"), [(768, (768, 32)), (64, (64, 32)), (32, (32,)), (48, (32,))])
def test_a_row_is_rounded_as_a_whole_first(width, groups):
    assert ir.activation_groups({"n_embd": width}) == groups


def test_the_engine_does_what_the_model_says(converted, monkeypatch):
    import openvino

    without_engines(monkeypatch, [KEPT])
    monkeypatch.setattr(ir, "activation_groups", lambda config: (64, 32))
    target = converted("int8")[1]
    compiled = openvino.Core().compile_model(target / "openvino_model.xml", "CPU")
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 64


class Nothing:
    def close(self) -> None:
        """Nothing was opened."""


def test_other_tokens_than_transformers_are_an_error(converted, trial):
    golden = [list(ids) for ids in trial.golden_token_ids]
    golden[2][3] += 1
    with pytest.raises(ConversionFailed, match=r"answers 'Count\.' with other tokens than transformers") as failed:
        converted("auto", golden_token_ids=golden)
    assert failed.value.exit_code == 14
    assert "--engine torch" in failed.value.hint


def test_other_tokens_leave_no_model_to_be_answered_by(converted, trial, tmp_path):
    with pytest.raises(ConversionFailed):
        converted("fp32", golden_token_ids=[[1], [2], [3], [4]])
    assert not (tmp_path / "ir" / "conversion.json").exists()
    assert not (tmp_path / "ir" / "openvino_model.xml").exists()


def test_an_architecture_that_is_not_covered_leaves_a_record_only(taught, trial, tmp_path):
    model = shutil.copytree(taught, tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"model_type": "gpt_neo"}
    (model / "config.json").write_text(json.dumps(config))
    conversion = convert_checkpoint(model, tmp_path / "ir", trial, "auto")
    told = "the architecture 'gpt_neo' is not converted"
    assert (conversion.converted, conversion.precision, conversion.reason) == (False, "fp32", told)
    assert files_in(tmp_path / "ir") == ["conversion.json"]
    chosen = choose_engine(taught, tmp_path / "ir", WantedEngine("auto", 1))
    chosen.engine.close()
    assert (chosen.engine.name, chosen.reason) == ("torch", told)


def test_a_model_that_torch_is_to_answer_for(tmp_path):
    conversion = not_converted(tmp_path / "new" / "ir", "torch was asked for")
    assert record_in(tmp_path / "new" / "ir") == {
        "converted": False, "precision": "fp32", "reason": "torch was asked for", "figures": {},
    }  # fmt: skip
    assert not conversion.converted
