"""The PyFunc: the package of code that travels with a version, loaded as MLflow loads it."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from tiny_model import LESSONS

from served_model.huggingface_model import HuggingFaceModelWrapper, load_package

REPO = Path(__file__).resolve().parents[2]


def wrapped(artifacts, **model_config):
    """The wrapper, loaded as MLflow loads it; called without MLflow's own checks."""
    made = HuggingFaceModelWrapper()
    made.load_context(SimpleNamespace(artifacts=artifacts, model_config=model_config or None))
    return made


def loaded_packages() -> set[str]:
    return {name for name in sys.modules if name.startswith("_text_generation_")}


@pytest.fixture
def edited(package, tmp_path):
    """A package whose code differs in one constant."""
    shutil.copytree(package["code"], tmp_path / "code")
    path = tmp_path / "code" / "sampling.py"
    text = path.read_text()
    assert "max_new_tokens: int = 96" in text
    path.write_text(text.replace("max_new_tokens: int = 96", "max_new_tokens: int = 7"))
    return package | {"code": str(tmp_path / "code")}


# --- answering ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(package, engine_name):
    model = wrapped(package, engine=engine_name, threads=1)
    yield model
    model.model.close()


def test_predict_and_predict_stream(model):
    assert model.predict(None, "Count.")[0]["answer"] == LESSONS["Count."]
    assert model.predict(None, ["Count."] * 3, {"max_new_tokens": 2})[2]["completion_tokens"] == 2
    events = list(model.predict_stream(None, "Say hello."))
    assert "".join(event["delta"] for event in events) == events[-1]["answer"] == LESSONS["Say hello."]


def test_errors_are_mlflows_own(model):
    with pytest.raises(MlflowException, match="is empty"):
        model.predict(None, "")
    with pytest.raises(MlflowException, match="top_k is -1"):
        next(model.predict_stream(None, "a", {"top_k": -1}))


def test_closing_predict_stream_ends_the_work(model):
    sampled = {"max_new_tokens": 200, "temperature": 5.0, "top_k": 50, "seed": 11}
    events = model.predict_stream(None, "Count.", sampled)
    next(events)
    events.close()
    end = time.monotonic() + 3
    while model.model.engine_load().running:
        assert time.monotonic() < end
        time.sleep(0.002)


def test_several_threads_at_once(model):
    questions = list(LESSONS) * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: model.predict(None, question)[0]["answer"], questions))
    assert answers == [LESSONS[question] for question in questions]


# --- the package of code --------------------------------------------------------------------------


def test_the_same_code_is_loaded_once_and_other_code_apart(package, edited):
    first, again, other = (load_package(Path(item["code"])) for item in (package, package, edited))
    assert first is again
    assert other is not first
    assert (first.sampling.Sampling().max_new_tokens, other.sampling.Sampling().max_new_tokens) == (96, 7)
    assert first.sampling.__name__ != other.sampling.__name__
    assert not first.__name__.startswith("served_model")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_two_versions_answer_in_one_process(package, edited, engine):
    old, new = wrapped(package, engine=engine, threads=1), wrapped(edited, engine=engine, threads=1)
    assert old.predict(None, "Count.")[0]["answer"] == LESSONS["Count."]
    assert new.predict(None, "Count.")[0]["completion_tokens"] == 7
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda i: (new if i % 2 else old).predict(None, "Count.")[0], range(12)))
    assert [answer["completion_tokens"] == 7 for answer in given] == [bool(i % 2) for i in range(12)]
    assert type(old.model) is not type(new.model)
    if engine == "openvino":
        assert old.model.describe()["process"] != new.model.describe()["process"]
    old.model.close()
    assert new.predict(None, "Count.")[0]["completion_tokens"] == 7
    new.model.close()


def test_nothing_is_written_into_the_artifacts(edited):
    writes = sys.dont_write_bytecode
    before = sorted(Path(edited["code"]).rglob("*"))
    model = wrapped(edited, engine="openvino", threads=1)
    model.predict(None, "Count.")
    model.model.close()
    assert sorted(Path(edited["code"]).rglob("*")) == before
    assert sys.dont_write_bytecode == writes


@pytest.mark.parametrize("broken", ["writer.py", "__init__.py"])
def test_a_broken_package_leaves_nothing_behind(edited, broken):
    path = Path(edited["code"]) / broken
    path.write_text(path.read_text() + "\nraise RuntimeError('broken on purpose')\n")
    before = loaded_packages()
    with pytest.raises(RuntimeError, match="broken on purpose"):
        wrapped(edited)
    assert loaded_packages() == before
    path.write_text(path.read_text().replace("raise RuntimeError('broken on purpose')", ""))
    assert load_package(Path(edited["code"])).sampling.Sampling().max_new_tokens == 7


def test_several_threads_load_one_package(edited):
    with ThreadPoolExecutor(6) as pool:
        packages = list(pool.map(lambda _: load_package(Path(edited["code"])), range(6)))
    assert {id(item) for item in packages} == {id(packages[0])}
    assert packages[0].question_model.QuestionModel


def test_two_loads_of_the_file_at_once(edited):
    path = Path(edited["code"]) / "__init__.py"
    path.write_text(path.read_text() + "\nimport time\ntime.sleep(0.3)\n")

    def load(delay_s):
        time.sleep(delay_s)
        spec = importlib.util.spec_from_file_location(
            f"mlflow_copy_{threading.get_ident()}", REPO / "served_model" / "huggingface_model.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load_package(Path(edited["code"])).question_model.QuestionModel

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load, [0.0, 0.1])
    assert first is second


def test_the_same_code_from_another_folder_when_the_first_one_is_gone(package, edited, tmp_path):
    first = Path(shutil.copytree(edited["code"], tmp_path / "first"))
    (first / "sampling.py").write_text((first / "sampling.py").read_text() + "\n# a version of its own\n")
    second = shutil.copytree(first, tmp_path / "second")
    load_package(first)
    shutil.rmtree(first)
    model = wrapped(package | {"code": str(second)}, engine="auto", threads=1)
    told = model.model.describe()
    model.model.close()
    assert told["name"] == "openvino", told["reason"]


# --- through MLflow -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(package, tmp_path_factory):
    """The package as MLflow saves it."""
    import mlflow

    from genai_lifecycle.models import packaging

    folder = tmp_path_factory.mktemp("saved") / "model"
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(packaging.MODEL_CODE),
        artifacts=package,
        signature=packaging._signature(96),
        pip_requirements=["mlflow"],
        model_config={"engine": "auto", "threads": 0},
    )
    return folder


FRESH = """
import sys
import mlflow
loaded = mlflow.pyfunc.load_model(sys.argv[1])
answer = loaded.predict({"question": ["Count."]})[0]
print("answer:", answer["answer"])
streamed = list(loaded.predict_stream({"question": "Count."}))
print("streamed:", streamed[-1]["answer"])
print("engine:", loaded.unwrap_python_model().model.describe()["name"])
print("imported:", *sorted({"torch", "transformers", "openvino", "served_model", "genai_lifecycle"} & set(sys.modules)))
"""


def test_a_fresh_process_answers_without_torch_and_transformers(saved, tmp_path):
    artifacts = saved / "artifacts"  # MLflow itself leaves a __pycache__ beside MLmodel
    before = sorted(artifacts.rglob("*"))
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(saved)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment | {"THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert told["answer"].strip() == told["streamed"].strip() == LESSONS["Count."]
    assert (told["engine"].strip(), told["imported"].strip()) == ("openvino", "")
    assert sorted(artifacts.rglob("*")) == before


def test_the_model_config_of_the_load_chooses(saved, monkeypatch):
    import mlflow

    monkeypatch.setenv("ENGINE", "openvino")
    loaded = mlflow.pyfunc.load_model(str(saved), model_config={"engine": "torch"}).unwrap_python_model().model
    told = loaded.describe()
    loaded.close()
    assert (told["name"], told["reason"], told["threads"]) == ("torch", "asked for", 1)
    with pytest.raises(MlflowException, match="ENGINE is 'onnx'; use auto, openvino or torch"):
        mlflow.pyfunc.load_model(str(saved), model_config={"engine": "onnx"})


def test_dropping_the_wrapper_ends_its_process(package):
    model = wrapped(package, engine="openvino", threads=1)
    pid = model.model.describe()["process"]
    assert Path(f"/proc/{pid}").exists()
    del model
    assert_ends(pid)


def test_dropping_a_model_that_mlflow_loaded_ends_its_process(saved):
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(saved), model_config={"engine": "openvino"})
    model = weakref.ref(loaded.unwrap_python_model().model)
    pid = model().describe()["process"]
    del loaded
    try:
        assert_ends(pid, 1)
    finally:
        if model():
            model().close()


def assert_ends(pid, timeout_s=5.0):
    gc.collect()
    end = time.monotonic() + timeout_s
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the process goes on"
        time.sleep(0.02)
