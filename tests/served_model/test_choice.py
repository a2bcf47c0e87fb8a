"""Which engine answers: what the operator asks for, what can run here, and the reason that is told."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from served_model.text_generation.choice import Wanted, choose_engine, usable_cpus
from served_model.text_generation.errors import EngineFailed

# --- what is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "environment", "engine", "threads"),
    [
        (None, {}, "auto", 0),
        ({}, {"ENGINE": "torch", "THREADS": "3"}, "torch", 3),
        ({"engine": "openvino", "threads": 2}, {"ENGINE": "torch", "THREADS": "3"}, "openvino", 2),
        ({"engine": "auto", "threads": 0}, {"ENGINE": "torch", "THREADS": "3"}, "torch", 3),  # deploy's defaults
        ({"engine": None, "threads": None}, {"ENGINE": "", "THREADS": ""}, "auto", 0),
        ({"threads": "4"}, {}, "auto", 4),
        ({}, {"ENGINE": "auto", "THREADS": "0"}, "auto", 0),
        ({"something": "else"}, {}, "auto", 0),
    ],
)
def test_the_load_beats_the_environment(monkeypatch, config, environment, engine, threads):
    monkeypatch.delenv("THREADS")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Wanted.from_settings(config) == Wanted(engine, threads)


@pytest.mark.parametrize("value", ["onnx", "OpenVINO", "1"])
def test_another_engine_is_refused_in_a_sentence(monkeypatch, value):
    for config in ({"engine": value}, None):
        monkeypatch.setenv("ENGINE", value)
        with pytest.raises(MlflowException, match=f"^ENGINE is '{value}'; use auto, openvino or torch.$") as refused:
            Wanted.from_settings(config)
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("value", ["two", "-1", "1.5", " "])
def test_another_number_of_threads_is_refused_in_a_sentence(monkeypatch, value):
    monkeypatch.setenv("THREADS", value)
    for config in ({"threads": value}, None):
        with pytest.raises(MlflowException, match=f"^THREADS is '{value}'; use a whole number, 0 for all"):
            Wanted.from_settings(config)


def test_a_raised_two_is_no_number_of_threads():
    with pytest.raises(MlflowException, match="THREADS is '²'"):
        Wanted.from_settings({"threads": "²"})


# --- what is chosen -------------------------------------------------------------------------------


def chosen(model, ir, engine="auto", threads=1):
    """Name, reason and threads of the engine; it is closed."""
    choice = choose_engine(model, ir, Wanted(engine, threads))
    told = choice.engine.describe()
    choice.engine.close()
    return told["name"], choice.reason, told["threads"]


def ir_with(taught_ir, folder, **record) -> Path:
    """A copy of the converted model with another record."""
    shutil.copytree(taught_ir, folder)
    path = folder / "conversion.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | record))
    return folder


def without(monkeypatch, *packages) -> None:
    """As if they were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in packages else find(name, *rest)
    )


def test_a_converted_model_is_answered_by_openvino(taught, taught_ir):
    assert chosen(taught, taught_ir) == ("openvino", "the package has a converted model", 1)
    assert chosen(taught, taught_ir, "openvino", 2) == ("openvino", "asked for", 2)


def test_torch_can_be_asked_for(taught, taught_ir):
    assert chosen(taught, taught_ir, "torch") == ("torch", "asked for", 1)


def test_without_a_converted_model_torch_answers(taught, taught_ir, tmp_path):
    assert chosen(taught, None) == ("torch", "there is no converted model", 1)
    told = "the architecture 'llama' is not converted"
    assert chosen(taught, ir_with(taught_ir, tmp_path / "ir", converted=False, reason=told)) == ("torch", told, 1)


def test_without_openvino_torch_answers(taught, taught_ir, monkeypatch):
    without(monkeypatch, "openvino_genai")
    assert chosen(taught, taught_ir) == ("torch", "openvino-genai is not installed", 1)
    with pytest.raises(MlflowException, match="^The engine 'openvino' cannot run: openvino-genai is not installed.$"):
        chosen(taught, taught_ir, "openvino")


def test_openvino_by_name_without_a_converted_model_is_refused(taught):
    with pytest.raises(MlflowException, match="^The engine 'openvino' cannot run: there is no converted model.$"):
        chosen(taught, None, "openvino")


def test_torch_by_name_where_it_is_not_installed_is_refused(taught, taught_ir, monkeypatch):
    without(monkeypatch, "torch")
    with pytest.raises(MlflowException, match="^The engine 'torch' cannot run: torch or transformers is not inst"):
        chosen(taught, taught_ir, "torch")


@pytest.fixture
def cut_short(taught_ir, tmp_path):
    folder = ir_with(taught_ir, tmp_path / "ir")
    weights = folder / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def test_auto_falls_back_to_torch_and_says_why(taught, cut_short, caplog):
    with caplog.at_level("INFO"):
        name, reason, _ = chosen(taught, cut_short)
    assert name == "torch"
    assert reason.startswith("The OpenVINO engine could not start: exit code 1; ")
    assert f"Answering with the engine torch: {reason}" in caplog.text


def test_openvino_by_name_does_not_fall_back(taught, cut_short):
    with pytest.raises(EngineFailed, match="could not start"):
        chosen(taught, cut_short, "openvino")


def test_where_neither_runs_both_reasons_are_told(taught, cut_short, monkeypatch):
    without(monkeypatch, "torch")
    with pytest.raises(MlflowException, match="torch or transformers is not installed") as refused:
        chosen(taught, cut_short)
    assert "OpenVINO engine could not start" in refused.value.message


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_damaged_record_leaves_torch(taught, taught_ir, tmp_path, engine):
    folder = ir_with(taught_ir, tmp_path / "ir")
    (folder / "conversion.json").write_text('{"converted": tr')
    assert chosen(taught, folder, engine)[0] == "torch"


# --- threads --------------------------------------------------------------------------------------


def test_no_threads_asked_for_are_all_that_may_be_used(taught, taught_ir, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert chosen(taught, taught_ir, threads=0)[2] == usable_cpus() == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),  # rounded up
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
    ids=str,
)
def test_a_containers_quota_counts(monkeypatch, files, expected):
    def read(path, *_):
        name = str(path).removeprefix("/sys/fs/cgroup/")
        if name not in files:
            raise FileNotFoundError(name)
        return files[name] + "\n"

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(Path, "read_text", read)
    assert usable_cpus() == expected
