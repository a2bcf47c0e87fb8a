"""The taught GPT-2, its converted model, and both engines over them. Built once, read only."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from tiny_model import LESSONS, TEMPLATE, make_gpt2, make_ir, open_engine

from served_model.text_generation.checkpoint import load_tokenizer
from served_model.text_generation.engine import Job
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


@pytest.fixture(scope="session")
def tiny_ir(tiny_gpt2, made_once) -> Path:
    """The converted model of the GPT-2 with random weights: its answers go on to the end of the window."""
    return made_once("tiny-ir", lambda target: make_ir(tiny_gpt2, target))


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


class Waiting:
    """Hands jobs in and waits for their ends, as a caller of an engine does."""

    def __init__(self):
        self._news = threading.Event()

    def job(self, ids, sampling, **given) -> Job:
        return Job(ids, sampling, self._news.set, **given)

    def until(self, holds, timeout_s: float = 20.0):
        """Wait until `holds()`; it is looked at on every notification, and every 10 ms."""
        end = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end, "waited too long"
            self._news.wait(0.01)
            self._news.clear()


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()
