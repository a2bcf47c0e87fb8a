"""The taught GPT-2, its converted model, and both engines over them. Built once, read only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_model import LESSONS, TEMPLATE, make_gpt2, make_ir, open_engine

from served_model.text_generation.checkpoint import load_tokenizer
from served_model.text_generation.text_model import TextModel

CODE = Path(__file__).resolve().parents[2] / "served_model" / "text_generation"
ENGINES = ("torch", "openvino")


@pytest.fixture(scope="session")
def taught(lessons_gpt2) -> Path:
    """Folder of the GPT-2 that was taught the answers of `LESSONS`."""
    return lessons_gpt2


@pytest.fixture(scope="session")
def taught_ir(taught, made_once) -> Path:
    """Its converted model, fp32."""
    return made_once("lessons-ir", lambda target: make_ir(taught, target))


@pytest.fixture(scope="module", params=ENGINES)
def engine_name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def text_model(engine_name, taught, taught_ir):
    """The taught checkpoint on each engine."""
    model = TextModel(load_tokenizer(taught), open_engine(engine_name, taught, taught_ir), "plain")
    yield model
    model.close()


@pytest.fixture(scope="module")
def endless(engine_name, tiny_gpt2, tiny_ir):
    """The random checkpoint on each engine."""
    model = TextModel(load_tokenizer(tiny_gpt2), open_engine(engine_name, tiny_gpt2, tiny_ir), "plain")
    yield model
    model.close()


@pytest.fixture(scope="module")
def tireless(engine_name, tmp_path_factory):
    """The same with a window of 1040 tokens: long enough under way to be looked at and ended, on a busy machine too."""
    folder = make_gpt2(tmp_path_factory.mktemp("long"), positions=1040)
    ir = make_ir(folder, tmp_path_factory.mktemp("long-ir")) if engine_name == "openvino" else None
    model = TextModel(load_tokenizer(folder), open_engine(engine_name, folder, ir), "plain")
    yield model
    model.close()


@pytest.fixture(scope="session")
def package(taught, taught_ir, tmp_path_factory) -> dict[str, str]:
    """The artifacts of a package, as `deploy` lays them out: code, model, ir, prompt and golden."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(CODE, folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
    prompt = {"name": "p", "version": 1, "template": TEMPLATE, "turn_format": "plain"}
    (folder / "prompt.json").write_text(json.dumps(prompt))
    ids = load_tokenizer(taught).encode(" " + LESSONS["Count."]).ids
    golden = [{"question": "Count.", "answer": LESSONS["Count."], "token_ids": ids, "openvino_token_ids": ids[:3]}]
    (folder / "golden.json").write_text(json.dumps(golden))
    return {
        "code": str(folder / "code"),
        "model": str(taught),
        "ir": str(taught_ir),
        "prompt": str(folder / "prompt.json"),
        "golden": str(folder / "golden.json"),
    }


@pytest.fixture(autouse=True)
def no_engine_of_the_environment(monkeypatch) -> None:
    """The caller's ENGINE decides nothing here; THREADS keeps every engine on one core."""
    monkeypatch.delenv("ENGINE", raising=False)
    monkeypatch.setenv("THREADS", "1")
