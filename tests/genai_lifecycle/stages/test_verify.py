"""Mode `verify`: every difference between a running server and the registry is found, and said in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow
import pytest

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.models.acceptance.checks import Check
from genai_lifecycle.stages import verify as compare
from genai_lifecycle.stages.verify import VerifySettings, compare_server, golden_check
from genai_lifecycle.store.tracking_store import open_store

NAME = "model-of-this-test"
TAGS = {"weights_sha256": "a" * 64, "prompt": "qa-simple/2", "run_id": "r1"}
GOLDEN = [
    {"question": "What is it?", "token_ids": [1, 2, 3], "torch_token_ids": [1, 2, 4], "max_new_tokens": 8},
    {"question": "And that?", "token_ids": [7], "torch_token_ids": [7], "max_new_tokens": 4},
]
CONVERSION = {"converted": True, "precision": "int8"}
TOLD = {
    "model": NAME, "model_uri": "/app/model", "model_version": "1", "model_alias": "champion", "run_id": "r1",
    "prompt": "qa-simple/2", "weights_sha256": "a" * 64, "engine": {"name": "openvino", "precision": "int8"},
}  # fmt: skip


class Said:
    """A server that says what the test put there; stands in for RunningServer, which has tests of its own."""

    told, answers = dict(TOLD), {item["question"]: item["token_ids"] for item in GOLDEN}

    def __init__(self, url: str, key: str):
        self.url, self.key = url, key

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def info(self):
        return self.told

    def token_ids(self, question, max_new_tokens):
        assert max_new_tokens == next(item["max_new_tokens"] for item in GOLDEN if item["question"] == question)
        return self.answers[question]


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> E2EConfig:
    """Version 1 is the champion; version 2 is another one."""
    base = tmp_path_factory.mktemp("compare")
    uri = f"sqlite:///{base / 'mlflow.db'}"
    config = E2EConfig(
        backend_store_uri=uri, tracking_uri=uri, data_dir=str(base / "artifacts"), staging_dir=base / "staging",
        registered_model_name=NAME,
    )  # fmt: skip
    open_store(config)
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    for number, tags in (("1", TAGS), ("2", TAGS | {"weights_sha256": "b" * 64})):
        write(base / number / compare.GOLDEN, GOLDEN)
        write(base / number / compare.CONVERSION, CONVERSION)
        client.create_model_version(NAME, str(base / number), tags=tags)
    client.set_registered_model_alias(NAME, "champion", "1")
    return config


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def compared(registry, monkeypatch):
    """Compares the registry with a server that differs by keyword."""
    open_store(registry)

    def make(model_uri: str | None = None, answers: dict[str, list[int]] | None = None, **told):
        monkeypatch.setattr(Said, "told", TOLD | told)
        monkeypatch.setattr(Said, "answers", Said.answers | (answers or {}))
        monkeypatch.setattr(compare, "RunningServer", Said)
        return compare_server(registry, VerifySettings(url="http://127.0.0.1:8000", model_uri=model_uri))

    return make


def test_the_same_on_both_sides(compared, registry):
    report = compared()
    assert not report.differences
    assert [check.name for check in report.checks] == [
        "model", "version", "alias", "weights", "prompt", "run", "engine", "precision", "golden answers"
    ]  # fmt: skip
    assert (report.model_uri, report.alias) == (f"models:/{NAME}/1", "champion")
    assert report.checks[-1].detail == "2 of 2 token for token"
    assert not list(registry.staging_dir.glob("scratch-*"))


@pytest.mark.parametrize(
    ("told", "name", "sentence"),
    [
        ({"model": "m"}, "model", f"its name is m; the registry has {NAME}"),
        ({"model_version": "3", "model_alias": None}, "version", "version 3 answers; champion is version 1"),
        (
            {"model_version": None, "model_alias": None}, "version",
            "the server does not say, it was started on /app/model; champion is version 1",
        ),
        (
            {"model_alias": "gone"}, "alias",
            "it was started as gone when that was version 1; no version has the alias gone any more",
        ),
        ({"weights_sha256": "c" * 64}, "weights", "their sha256 is cccccccccccc; the registry has aaaaaaaaaaaa"),
        ({"weights_sha256": None}, "weights", "the server does not say; the registry has aaaaaaaaaaaa"),
        ({"prompt": "qa-simple/1"}, "prompt", "it asks with qa-simple/1; the registry has qa-simple/2"),
        ({"run_id": "r2"}, "run", "it comes from r2; the registry has r1"),
        (
            {"engine": {"name": "openvino", "precision": "fp32"}}, "precision",
            "its weights are fp32; the registry has int8",
        ),
    ],
)  # fmt: skip
def test_a_difference_is_said_in_a_sentence(compared, told, name, sentence):
    (difference,) = compared(**told).differences
    assert difference.name == name and difference.detail.startswith(sentence)


def test_another_engine_is_held_to_its_own_answers(compared):
    engine = {"name": "torch", "reason": "PRECISION"}
    report = compared(engine=engine, answers={"What is it?": [1, 2, 4]})
    assert [check.name for check in report.differences] == ["engine"]
    assert "answers with torch; the registry has openvino (it says: PRECISION)" in report.differences[0].detail


def test_an_alias_that_has_moved_on_is_found(compared, registry):
    """The container still runs the champion of yesterday."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(NAME, "champion", "2")
    try:
        told = {check.name: check.detail for check in compared().differences}
    finally:
        client.set_registered_model_alias(NAME, "champion", "1")
    assert told["version"] == "version 1 answers; champion is version 2"
    assert told["alias"] == "it was started as champion when that was version 1; champion is version 2 by now"
    assert set(told) == {"version", "alias", "weights"}


def test_a_version_can_be_named(compared, registry):
    report = compared(f"models:/{NAME}/2")
    assert {check.name for check in report.differences} == {"version", "weights"}
    assert report.differences[0].detail == "version 1 answers; version 2 was asked for"


def test_other_golden_answers_are_counted_and_located(compared):
    (difference,) = compared(answers={"What is it?": [1, 2, 9]}).differences
    assert difference.detail == "1 of 2 differ; the first is 'What is it?', from token 3 on"


@pytest.mark.parametrize(("given", "token"), [([1, 2], 3), ([1, 2, 3, 4], 4), ([], 1), ([9, 2, 3], 1)])
def test_an_answer_that_is_shorter_or_longer_differs(given, token):
    check = golden_check([given], GOLDEN[:1], "openvino")
    assert isinstance(check, Check) and not check.passed and check.detail.endswith(f"from token {token} on")


def test_an_address_is_needed(registry):
    with pytest.raises(ConfigError, match="needs a running server") as error:
        compare_server(registry, VerifySettings())
    assert "--url" in error.value.hint


def test_a_version_that_is_not_there(compared, registry):
    with pytest.raises(NotFound, match=re.escape(f"There is no version 9 of {NAME!r}.")):
        compared(f"models:/{NAME}/9")


def test_a_damaged_file_in_the_store_is_no_crash(compared, registry):
    folder = Path(mlflow.MlflowClient().get_model_version(NAME, "2").source)
    text = (folder / compare.GOLDEN).read_text("utf-8")
    (folder / compare.GOLDEN).write_text("[", "utf-8")
    try:
        with pytest.raises(NotFound, match="artifacts/golden.json of models:/.* is damaged"):
            compared(f"models:/{NAME}/2")
    finally:
        (folder / compare.GOLDEN).write_text(text, "utf-8")
