"""MLflow's own description of a model, without the paths of the machine that logged it."""

from __future__ import annotations

import mlflow
import pytest
import yaml
from conftest import saved_model

from genai_lifecycle.models.mlmodel import forget_the_machine

LOGGED = """\
artifact_path: /home/somebody/store/models/m-1/artifacts
flavors:
  python_function:
    artifacts:
      golden:
        path: artifacts/golden.json
        uri: /home/somebody/staging with a long name and spaces that makes YAML fold the line/golden.json
    loader_module: mlflow.pyfunc.loaders.code_model
    model_code_path: /home/somebody/checkout/served_model/huggingface_model.py
    python_version: 3.11.7
run_id: 12345678901234567890123456789012
utc_time_created: '2026-11-21 12:37:02.332010'
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "MLmodel").write_text(LOGGED, "utf-8")
    return tmp_path


def test_only_the_paths_go(model):
    assert forget_the_machine(model)
    expected = yaml.safe_load(LOGGED)
    del expected["artifact_path"]
    expected["flavors"]["python_function"]["artifacts"]["golden"]["uri"] = "artifacts/golden.json"
    expected["flavors"]["python_function"]["model_code_path"] = "huggingface_model.py"
    assert yaml.safe_load((model / "MLmodel").read_text("utf-8")) == expected


def test_a_second_time_changes_nothing(model):
    forget_the_machine(model)
    before = (model / "MLmodel").read_bytes()
    assert not forget_the_machine(model)
    assert (model / "MLmodel").read_bytes() == before


@pytest.mark.parametrize("text", ["", "a", "a: [", "flavors: {}", "flavors:\n  python_function:\n    artifacts: 1\n"])
def test_another_file_is_refused(model, text):
    (model / "MLmodel").write_text(text, "utf-8")
    with pytest.raises(ValueError, match="MLmodel cannot be read"):
        forget_the_machine(model)
    assert (model / "MLmodel").read_text("utf-8") == text


def test_mlflow_loads_it_from_another_place_and_it_answers_the_same(tmp_path, tiny_gpt2):
    folder = saved_model(tmp_path / "here", tiny_gpt2)
    before = mlflow.pyfunc.load_model(str(folder)).predict(["What is MLflow?"])
    assert forget_the_machine(folder)
    assert str(tmp_path) not in (folder / "MLmodel").read_text("utf-8")
    (tmp_path / "here").rename(tmp_path / "there")
    after = mlflow.pyfunc.load_model(str(tmp_path / "there" / folder.name)).predict(["What is MLflow?"])
    assert [answer["token_ids"] for answer in after] == [answer["token_ids"] for answer in before]
