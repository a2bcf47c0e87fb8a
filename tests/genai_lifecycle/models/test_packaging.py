"""The packaged model: its files, alone in a fresh process outside the checkout, and over `mlflow models serve`."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import requests
from mlflow.pyfunc.scoring_server import get_cmd
from tiny_model import make_taught_gpt2

from genai_lifecycle.models import packaging
from genai_lifecycle.models.conversion.precision import Trial, convert_checkpoint
from genai_lifecycle.models.source import ModelSource, weights_sha256
from genai_lifecycle.store.prompt_registry import PromptRef

PROMPT = PromptRef("qa-simple", 3, "Question: {{question}}\nAnswer:")
LESSONS = {"Count.": "one two three four five", "Say hello.": "こんにちは 🙂 naïve <b>"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ModelSource:
    lessons = {PROMPT.template.replace("{{question}}", question): f" {text}" for question, text in LESSONS.items()}
    folder = make_taught_gpt2(tmp_path_factory.mktemp("source") / "taught", lessons)
    for name in ("pytorch_model.bin", "README.md", "flax_model.msgpack", "train.py"):
        (folder / name).write_text("not needed")
    return ModelSource("taught", "folder", str(folder), None, "plain", weights_sha256(folder))


@pytest.fixture(scope="module")
def staged(source, tmp_path_factory) -> Path:
    """The artifacts as deploy lays them out."""
    folder = tmp_path_factory.mktemp("staged")
    packaging.stage(folder, source, PROMPT)
    trial = Trial("plain", PROMPT.template, [], [], [], 40)
    assert convert_checkpoint(folder / "model", folder / "ir", trial, "fp32").converted
    packaging.write_golden(folder, [{"question": "Count.", "answer": "one", "token_ids": [1], "max_new_tokens": 5}])
    return folder


@pytest.fixture(scope="module")
def saved(staged, tmp_path_factory) -> Path:
    """The model folder that `log_model` would log, without a store."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    packaging.save_model(staged, folder, engine="openvino", max_new_tokens=40)
    return folder


# --- the files ------------------------------------------------------------------------------------


def test_only_needed_files_are_staged(staged):
    files = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert files == {
        "golden.json", "prompt.json", "model/config.json", "model/generation_config.json",
        "model/model.safetensors", "model/tokenizer.json", "model/tokenizer_config.json",
        "ir/conversion.json", "ir/openvino_model.bin", "ir/openvino_model.xml",
        *(f"code/{path.name}" for path in packaging.PACKAGE_CODE.glob("*.py")),
    }  # fmt: skip


def test_the_prompt_is_frozen_with_its_version_and_turn_format(staged):
    assert json.loads((staged / "prompt.json").read_text("utf-8")) == {
        "name": "qa-simple", "version": 3, "template": PROMPT.template, "turn_format": "plain",
    }  # fmt: skip


def test_files_of_the_huggingface_cache_are_copied_not_linked(source, tmp_path):
    cached = tmp_path / "cached"
    cached.mkdir()
    for path in Path(source.path).glob("*.json"):
        (cached / path.name).symlink_to(path)
    (cached / "model.safetensors").symlink_to(Path(source.path) / "model.safetensors")
    packaging.stage(tmp_path / "out", ModelSource("m", "hub", str(cached), "abc", "plain", ""), PROMPT)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert weights_sha256(tmp_path / "out" / "model") == source.weights_sha256


def test_the_signature_has_the_served_models_parameters_and_defaults():
    from served_model.text_generation.sampling import Sampling

    params = packaging._signature(max_new_tokens=40).params.params
    defaults = {param.name: param.default for param in params}
    sampling = Sampling(max_new_tokens=40)
    assert {name: tuple(value) if name == "stop" else value for name, value in defaults.items()} == vars(sampling)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_requirements_name_every_package_that_the_served_code_imports(engine):
    other = {"openvino": "torch_engine.py", "torch": "openvino_worker.py"}[engine]
    files = [packaging.MODEL_CODE, *packaging.PACKAGE_CODE.glob("*.py")]
    outside = {name for path in files if path.name != other for name in imported(path)} - set(sys.stdlib_module_names)
    # transformers reads tokenizers of old checkpoints, which a package never holds; torch is asked for its presence
    named = {*packaging.REQUIREMENTS, *packaging.ENGINE_REQUIREMENTS[engine], "transformers"}
    assert {name.replace("_", "-") for name in outside} <= named


def imported(path: Path) -> set[str]:
    """Top-level packages of the absolute imports."""
    import ast

    return {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
    }


# --- a fresh process outside the checkout ---------------------------------------------------------

ALONE = """
import importlib.util, json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
forms = {
    "frame": pd.DataFrame({"question": ["Count.", "Say hello."]}),
    "dict": {"question": ["Count.", "Say hello."]},
    "strings": ["Count.", "Say hello."],
    "dicts": [{"question": "Count."}, {"question": "Say hello."}],
    "series": pd.Series(["Count.", "Say hello."]),
    "string": "Count.",
}
said = {name: [answer["answer"] for answer in model.predict(form)] for name, form in forms.items()}
refused = {}
for name, args in {
    "column": (pd.DataFrame({"text": ["a"]}),), "empty": ("",), "range": ("a", {"temperature": 9.0}),
    "type": ("a", {"temperature": "hot"}), "stop": ("a", {"stop": "END"}),
}.items():
    try:
        model.predict(args[0], params=args[1] if len(args) > 1 else None)
    except mlflow.MlflowException as exc:
        refused[name] = [exc.error_code, exc.message]
events = list(model.predict_stream({"question": "Say hello."}, params={"stop": ["<b>"]}))
print(json.dumps({
    "said": said, "refused": refused,
    "short": model.predict("Count.", params={"max_new_tokens": 1})[0],
    "streamed": "".join(event["delta"] for event in events), "last": events[-1]["answer"],
    "heavy": [n for n in ("torch", "transformers", "langchain_huggingface") if n in sys.modules],
    "ours": [n for n in ("genai_lifecycle", "served_model", "genai_server") if importlib.util.find_spec(n)],
}))
"""


@pytest.fixture(scope="module")
def alone(saved, tmp_path_factory) -> dict:
    """What the packaged model does where none of our packages can be imported."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(saved)],
        cwd=tmp_path_factory.mktemp("elsewhere"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_answers_every_form_of_input_alone(alone):
    assert alone["ours"] == alone["heavy"] == []
    assert alone["said"].pop("string") == [LESSONS["Count."]]
    assert len(alone["said"]) == 5
    assert all(said == list(LESSONS.values()) for said in alone["said"].values())


def test_the_package_takes_parameters_and_streams(alone):
    assert (alone["short"]["completion_tokens"], alone["short"]["finish_reason"]) == (1, "length")
    assert alone["streamed"] == alone["last"] == "こんにちは 🙂 naïve"


def test_the_package_refuses_bad_input_and_bad_parameters(alone):
    refused = alone["refused"]
    assert {name: code for name, (code, _) in refused.items()} == dict.fromkeys(
        ("column", "empty", "range", "type", "stop"), "INVALID_PARAMETER_VALUE"
    )
    assert "no 'question'" in refused["column"][1]
    assert "temperature is 9.0; use a value that is 0, or from 0.01 to 5." in refused["range"][1]


# --- MLflow's own server --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(saved, tmp_path_factory):
    """What `mlflow models serve` starts for the folder, ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("serving")
    command, environment = get_cmd(str(saved), port, "127.0.0.1")
    with (folder / "log").open("w") as log:
        server = forked.Popen(
            [sys.executable, "-m", *shlex.split(command)], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/ping", server, folder / "log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        server.terminate()
        server.wait(20)


def wait_until_ready(url: str, server: forked.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def post(address: str, body: object, content_type: str = "application/json") -> requests.Response:
    data = body if isinstance(body, str) else json.dumps(body)
    return requests.post(address, data=data.encode(), headers={"Content-Type": content_type}, timeout=30)


def answers(response: requests.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["answer"] for row in response.json()["predictions"]]


BOTH = ["Count.", "Say hello."]
BODIES = {
    "dataframe_split": {"dataframe_split": {"columns": ["question"], "data": [[question] for question in BOTH]}},
    "dataframe_records": {"dataframe_records": [{"question": question} for question in BOTH]},
    "instances": {"instances": BOTH},
    "instances of dicts": {"instances": [{"question": question} for question in BOTH]},
    "inputs, a list of strings": {"inputs": BOTH},
    "inputs, a dict": {"inputs": {"question": BOTH}},
    "inputs, a list of dicts": {"inputs": [{"question": question} for question in BOTH]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_mlflows_server_takes_every_json_form(address, name):
    assert answers(post(address, BODIES[name])) == list(LESSONS.values())


@pytest.mark.slow
def test_mlflows_server_takes_a_bare_string_and_a_single_dict(address):
    for inputs in ("Count.", {"question": "Count."}):
        assert answers(post(address, {"inputs": inputs})) == [LESSONS["Count."]]


def test_mlflows_server_takes_csv(address):
    assert answers(post(address, "question\nCount.\nSay hello.\n", "text/csv")) == list(LESSONS.values())


def test_mlflows_server_takes_history(address):
    row = {"question": "Count.", "history": ["Hi", "Hello!"]}
    frame = {"columns": ["question", "history"], "data": [list(row.values()), ["Count.", None]]}
    with_history, without = post(address, {"dataframe_split": frame}).json()["predictions"]
    assert without["answer"] == LESSONS["Count."]
    assert with_history["prompt_tokens"] != without["prompt_tokens"]


def test_mlflows_server_takes_parameters(address):
    body = {"inputs": ["Count."], "params": {"max_new_tokens": 2, "stop": ["x"], "temperature": 1, "seed": 5}}
    first, again = (post(address, body).json()["predictions"][0] for _ in range(2))
    assert first["completion_tokens"] <= 2
    assert first["token_ids"] == again["token_ids"]


def test_several_callers_of_mlflows_server_at_once(address):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda i: answers(post(address, {"inputs": [BOTH[i % 2]]})), range(12)))
    assert said == [[LESSONS[BOTH[i % 2]]] for i in range(12)]


BAD = {
    "no question": ({"dataframe_records": [{"text": "a"}]}, "no 'question'"),
    "null": ({"dataframe_records": [{"question": None}]}, "must be a text"),
    "a number": ({"inputs": {"question": 5}}, "must be a text, not int"),
    "empty text": ({"inputs": [" "]}, "is empty"),
    "an empty list": ({"inputs": []}, "no question in the input"),
    "half a character": ({"inputs": ["\ud83d"]}, "half of a character"),
    "a history that is a text": ({"inputs": [{"question": "a", "history": "b"}]}, "history must be a list"),
    "a parameter out of range": (
        {"inputs": ["a"], "params": {"top_p": 0.0}},
        "top_p is 0.0; use a value from 0.001 to 1",
    ),
    "a parameter of another type": ({"inputs": ["a"], "params": {"seed": "x"}}, "seed"),
    "no known key": ({"question": "a"}, "dataframe_split"),
    "no JSON": ("question: a", "JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_mlflows_server_answers_400_to_bad_input(address, name):
    body, reason = BAD[name]
    refused = post(address, body)
    assert refused.status_code == 400
    assert reason in refused.json()["message"]
