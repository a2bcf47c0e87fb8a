"""The probe's parts; the whole of it runs as a process in tests/genai_lifecycle/stages/test_verify.py."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import mlflow
import pytest

from genai_lifecycle.models.acceptance import probe


class Model:
    """Answers with what it was asked; refuses an empty question as the served model does."""

    def predict(self, model_input, params=None):
        if model_input == "":
            raise mlflow.MlflowException("A question is empty.", error_code=1000)
        if model_input == "crash":
            raise KeyError("inside")
        return [{"answer": model_input, "params": params}]

    def predict_stream(self, model_input, params=None):
        yield {"delta": "two "}
        yield {"delta": "words"}
        yield {"delta": "", "answer": "two words"}


def test_a_refusal_is_written_down_and_a_crash_is_not_hidden():
    assert probe.attempt(Model(), "a", {"seed": 1}) == {"predictions": [{"answer": "a", "params": {"seed": 1}}]}
    refused = probe.attempt(Model(), "")
    assert (refused["error_code"], refused["message"]) == ("INVALID_PARAMETER_VALUE", "A question is empty.")
    with pytest.raises(KeyError):
        probe.attempt(Model(), "crash")


def test_a_stream_is_put_together():
    last = {"delta": "", "answer": "two words"}
    assert probe.stream(Model(), "q") == {"text": "two words", "last": last, "events": 3}


def test_a_golden_question_is_asked_with_its_own_limit_and_timed():
    item = {"question": "q", "token_ids": [1], "max_new_tokens": 7}
    seen = probe.replay(Model(), item)
    assert seen["expected"] == item
    assert seen["answer"]["params"] == {"max_new_tokens": 7}
    assert 0 <= seen["seconds"] < 1


def test_every_form_asks_the_same_question():
    forms = probe.forms("q")
    assert list(forms) == ["dataframe", "dict", "dict of list", "list of str", "list of dict", "string"]
    from served_model.text_generation.inputs import Turn, turns_from

    assert all(turns_from(form) == [Turn("q")] for form in forms.values())


def test_every_bad_form_is_bad_for_the_served_model():
    from served_model.text_generation.inputs import turns_from

    for form in probe.bad_forms().values():
        with pytest.raises(mlflow.MlflowException):
            turns_from(form)


def test_a_packaged_file_is_found_wherever_mlflow_puts_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "conversion.json").write_text('{"converted": true}')
    folder = probe.find(str(tmp_path), "conversion.json")
    assert probe.read_json(folder, "conversion.json") == {"converted": True}


def test_the_hash_of_the_weights_is_the_one_of_the_tag(tiny_gpt2):
    from genai_lifecycle.models.source import weights_sha256

    assert probe.weights_sha256(str(tiny_gpt2)) == weights_sha256(tiny_gpt2)


def test_observations_are_whole_or_not_there(tmp_path, monkeypatch):
    request, observed = tmp_path / "request.json", tmp_path / "observed.json"
    request.write_text(json.dumps({"model_uri": "m"}))
    monkeypatch.setattr(probe, "observe", lambda asked: {"asked": asked})
    probe.main(str(request), str(observed))
    assert json.loads(observed.read_text()) == {"asked": {"model_uri": "m"}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["observed.json", "request.json"]
    monkeypatch.setattr(probe, "observe", lambda asked: {"asked": object()})  # json fails half-way
    with pytest.raises(TypeError):
        probe.main(str(request), str(tmp_path / "second.json"))
    assert not (tmp_path / "second.json").exists()


def test_the_probe_imports_none_of_our_packages():
    nodes = ast.walk(ast.parse(Path(probe.__file__).read_text("utf-8")))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert names - set(sys.stdlib_module_names) == {"mlflow", "pandas"}
    assert "from " not in {line[:5] for line in Path(probe.__file__).read_text("utf-8").splitlines()}
