"""`mlflow models serve` and our server on one model: the same status, content type and body, whatever is sent.

Where MLflow's answer is a fault of its own, `BETTER` says what it answers and what we answer in its place.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import forked
import pandas as pd
import pytest
import requests
from conftest import REPO, StandIn, free_port, saved_model
from fastapi.testclient import TestClient
from mlflow.pyfunc.scoring_server import get_cmd
from mlflow.types.schema import ParamSchema, ParamSpec
from tiny_model import LESSONS

from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import Scoring
from genai_server.answering.predictor import LoadedModel
from genai_server.answering.queue_slots import QueueSlots
from genai_server.http.app import create_app
from genai_server.http.scoring_call import ScoringCall
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
TIMINGS = ("first_token_s", "total_s", "queued_s")
ONE, BOTH = "Count.", ["Count.", "Say hello."]


def parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(columns).to_parquet(file)
    return file.getvalue()


# --- what is sent: a body as it stands, or an object that is written as JSON ------------------------

ACCEPTED = {
    "dataframe_split": {"dataframe_split": {"columns": ["question"], "data": [[question] for question in BOTH]}},
    "dataframe_split with an index": {"dataframe_split": pd.DataFrame({"question": BOTH}).to_dict("split")},
    "dataframe_records": {"dataframe_records": [{"question": question} for question in BOTH]},
    "instances, strings": {"instances": BOTH},
    "instances, dicts": {"instances": [{"question": question} for question in BOTH]},
    "instances, a dict": {"instances": {"question": BOTH}},
    "inputs, strings": {"inputs": BOTH},
    "inputs, a dict": {"inputs": {"question": BOTH}},
    "inputs, dicts": {"inputs": [{"question": question} for question in BOTH]},
    "inputs, a string": {"inputs": ONE},
    "inputs, one dict": {"inputs": {"question": ONE}},
    "inputs, nested": {"inputs": [BOTH]},
    "history": {"inputs": [{"question": ONE, "history": ["Hi", "Hello!"]}]},
    "a key that is not known": {"inputs": [ONE], "other": 1},
    "params": {"inputs": [ONE], "params": {"max_new_tokens": 2, "temperature": 1, "seed": 5, "stop": ["x"]}},
    "params, greedy and cut": {"inputs": BOTH, "params": {"max_new_tokens": 3}},
    "params, a deadline": {"inputs": [ONE], "params": {"timeout_s": 30}},
    "params, unknown": {"inputs": [ONE], "params": {"nope": 1}},
    "params, null": {"inputs": [ONE], "params": None},
    "params, empty": {"inputs": [ONE], "params": {}},
    "params, a null in it": {"inputs": [ONE], "params": {"seed": None}},
    "the unwrapped form for language models": {"input": "x", "question": ONE, "max_new_tokens": 2},
    "charset": ("application/json; charset=utf-8", b'{"inputs": ["Count."]}'),
    "charset in capitals": ("application/json; charset=UTF-8", b'{"inputs": ["Count."]}'),
    "a byte order mark": (JSON, b'\xef\xbb\xbf{"inputs": ["Count."]}'),
    "UTF-16": (JSON, json.dumps({"inputs": [ONE]}).encode("utf-16")),
    "CSV": (CSV, b"question\nCount.\nSay hello.\n"),
    "CSV with an index": (CSV, pd.DataFrame({"question": BOTH}).to_csv().encode()),
    "CSV with CRLF and charset": (f"{CSV}; charset=utf-8", b"question\r\nCount.\r\n"),
    "Parquet": (PARQUET, parquet(question=BOTH)),
    "Parquet with history": (PARQUET, parquet(question=[ONE], history=[["Hi", "Hello!"]])),
}
REFUSED = {
    "no JSON": (JSON, b"question: a"),
    "an empty body": (JSON, b""),
    "no UTF-8": (JSON, b'{"inputs": ["\xff"]}'),
    "a list": [ONE],
    "null": None,
    "a number": 5,
    "a string": ONE,
    "no known key": {"question": ONE},
    "an empty object": {},
    "two input keys": {"inputs": [ONE], "instances": [ONE]},
    "a chat": {"messages": [{"role": "user", "content": ONE}]},
    "a prompt": {"prompt": ONE},
    "a split that is a string": {"dataframe_split": "x"},
    "a split with unknown keys": {"dataframe_split": {"col": ["question"], "data": [["a"]]}},
    "a split with rows too long": {"dataframe_split": {"columns": ["question"], "data": [["a", "b"]]}},
    "records that are a dict": {"dataframe_records": {"question": "a"}},
    "instances of two kinds": {"instances": [{"question": "a"}, "b"]},
    "instances that differ": {"instances": [{"question": "a"}, {"question": "b", "history": ["x"]}]},
    "nested 700 deep": (JSON, b'{"inputs":' + b"[" * 700 + b"]" * 700 + b"}"),
    "a param of another type": {"inputs": [ONE], "params": {"temperature": "hot"}},
    "a param that is no whole number": {"inputs": [ONE], "params": {"seed": 1.5}},
    "a param that should be a list": {"inputs": [ONE], "params": {"stop": "x"}},
    "a param that is true": {"inputs": [ONE], "params": {"seed": True}},
    "a param out of range": {"inputs": [ONE], "params": {"temperature": 9}},
    "a param that is NaN": (JSON, b'{"inputs": ["a"], "params": {"temperature": NaN}}'),
    "a deadline out of range": {"inputs": [ONE], "params": {"timeout_s": 9999}},
    "a deadline of another type": {"inputs": [ONE], "params": {"timeout_s": "soon"}},
    "params that are a list": {"inputs": [ONE], "params": [1]},
    "params that are a string": {"inputs": [ONE], "params": "x"},
    "another content type": ("text/plain", b"hi"),
    "a form": ("application/x-www-form-urlencoded", b"inputs=a"),
    "no content type at all in it": ("xx", b"hi"),
    "another charset": ("application/json; charset=latin-1", b'{"inputs": ["Count."]}'),
    "an unknown content parameter": ("application/json; version=2", b'{"inputs": ["Count."]}'),
    "two unknown content parameters": ("application/json; a=1; b=2", b'{"inputs": ["Count."]}'),
    "another column": {"dataframe_records": [{"text": "a"}]},
    "another column in a CSV": (CSV, b"text\na\n"),
    "another column in Parquet": (PARQUET, parquet(text=["a"])),
    "an empty question": {"inputs": [" "]},
    "a question that is null": {"dataframe_records": [{"question": None}]},
    "a question that is a number": {"inputs": {"question": 5}},
    "a question that is NaN": (JSON, b'{"inputs": [NaN]}'),
    "half a character": (JSON, b'{"inputs": ["\\ud83d"]}'),
    "no question": {"inputs": []},
    "no record": {"dataframe_records": []},
    "inputs that are null": {"inputs": None},
    "a history that is a text": {"inputs": [{"question": "a", "history": "b"}]},
    "a CSV without a row": (CSV, b"question\n"),
    "a CSV of numbers": (CSV, b"question\n5\n"),
    "a CSV that is no UTF-8": (CSV, b"question\n\xff\n"),
}

GOOD = b'{"inputs": ["Count."]}'
OURS_IS_AN_ANSWER = (200, JSON, "predictions")
# content type, body -> MLflow's (status, type, part of the body) and ours
BETTER = {
    "no content type": (
        (None, GOOD),
        (500, "text/plain; charset=utf-8", "Internal Server Error"),
        (415, "text/plain; charset=utf-8", "Name the content type of the body"),
    ),
    "a content type in capitals": (
        ("Application/JSON", GOOD), (415, "text/plain; charset=utf-8", "only supports"), OURS_IS_AN_ANSWER,
    ),
    "a content parameter in capitals": (
        ("application/json; Charset=utf-8", GOOD),
        (415, "text/plain; charset=utf-8", "Unrecognized content type parameters: Charset"),
        OURS_IS_AN_ANSWER,
    ),
    "a charset in quotes": (
        ('application/json; charset="utf-8"', GOOD), (415, "text/plain; charset=utf-8", "UTF-8"), OURS_IS_AN_ANSWER,
    ),
    "a semicolon at the end": (
        ("application/json;", GOOD),
        (415, "text/plain; charset=utf-8", "Unrecognized content type parameters: ."),
        OURS_IS_AN_ANSWER,
    ),
    "nested 100,000 deep": (
        (JSON, b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (500, "text/plain; charset=utf-8", "Internal Server Error"),
        (400, JSON, "The JSON cannot be read"),
    ),
    "a number of 5,000 digits": (
        (JSON, b'{"inputs":' + b"9" * 5000 + b"}"),
        (500, "text/plain; charset=utf-8", "Internal Server Error"),
        (400, JSON, "The JSON cannot be read"),
    ),
}  # fmt: skip
# MLflow sends a stack trace with its file paths; apart from it the answers are the same.
WITH_A_STACK_TRACE = {
    "an empty CSV": (CSV, b""),
    "a CSV with rows too long": (CSV, b"question\na,b\nc,d,e\n"),
    "a CSV with an open quote": (CSV, b'question\n"a\n'),
    "Parquet that is none": (PARQUET, b"PAR1xx"),
    "empty Parquet": (PARQUET, b""),
}


# --- both servers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory, lessons_gpt2):
    """Addresses of MLflow's server and of ours, both ready."""
    folder = tmp_path_factory.mktemp("contract")
    model = saved_model(folder, lessons_gpt2)
    theirs, ours = free_port(), free_port()
    command, environment = get_cmd(str(model), theirs, "127.0.0.1")  # what `mlflow models serve` starts
    serve = [sys.executable, "-m", *shlex.split(command)]
    settings = {"MLFLOW_MODEL_URI": str(model), "PORT": str(ours), "FEEDBACK_FILE": str(folder / "feedback")}
    with (
        running(serve, folder / "theirs.log", environment) as log,
        running([sys.executable, str(REPO / "fastapi_server.py")], folder / "ours.log", settings) as our_log,
    ):
        addresses = f"http://127.0.0.1:{theirs}", f"http://127.0.0.1:{ours}"
        for address, path in zip(addresses, (log, our_log), strict=True):
            wait_until_ready(f"{address}/ping", path)
        yield addresses


@contextmanager
def running(command: list[str], log: Path, settings: Mapping[str, str]) -> Iterator[Path]:
    """A process until the end of the block; yields its log."""
    environment = os.environ | settings | {"THREADS": "1"}
    with log.open("w") as output:
        process = forked.Popen(command, cwd=log.parent, env=environment, stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(20)


def wait_until_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    pytest.fail(f"{url} does not answer: {log.read_text()[-2000:]}")


def post(address: str, case: object) -> tuple[int, str, str]:
    """Status, content type and body without its timings."""
    content_type, body = case if isinstance(case, tuple) else (JSON, json.dumps(case).encode())
    headers = {"Content-Type": content_type} if content_type else {}
    answer = requests.post(f"{address}/invocations", data=body, headers=headers, timeout=30)
    return answer.status_code, answer.headers["content-type"], untimed(answer.text)


def untimed(body: str) -> str:
    try:
        known = json.loads(body)
    except json.JSONDecodeError:
        return body
    rows = known["predictions"] if isinstance(known, dict) and "predictions" in known else known
    for row in rows if isinstance(rows, list) else ():
        for name in TIMINGS:
            assert isinstance(row.pop(name), float)
    return json.dumps(known)


# --- the contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_mlflow_answers_we_answer_alike(servers, name):
    theirs, ours = (post(address, ACCEPTED[name]) for address in servers)
    assert theirs[:2] == (200, JSON), theirs
    assert ours == theirs


@pytest.mark.parametrize("name", REFUSED)
def test_what_mlflow_refuses_we_refuse_alike(servers, name):
    theirs, ours = (post(address, REFUSED[name]) for address in servers)
    assert theirs[0] in (400, 415), theirs
    assert ours == theirs


def test_the_compared_answers_are_the_lessons(servers):
    """Two servers that are wrong in one way would agree, too."""
    for address in servers:
        rows = json.loads(post(address, ACCEPTED["inputs, strings"])[2])["predictions"]
        assert [row["answer"] for row in rows] == [LESSONS[question] for question in BOTH]


@pytest.mark.parametrize("name", BETTER)
def test_where_mlflow_is_at_fault_we_answer_better(servers, name):
    case, *expected = BETTER[name]
    for address, (status, content_type, part) in zip(servers, expected, strict=True):
        answer = post(address, case)
        assert answer[:2] == (status, content_type)
        assert part in answer[2]


@pytest.mark.parametrize("name", WITH_A_STACK_TRACE)
def test_no_stack_trace_is_sent(servers, name):
    theirs, ours = (post(address, WITH_A_STACK_TRACE[name]) for address in servers)
    full = json.loads(theirs[2])
    assert "Traceback" in full.pop("stack_trace"), "MLflow has mended it: move the case to REFUSED"
    assert (ours[:2], json.loads(ours[2])) == (theirs[:2], full)


@pytest.mark.parametrize("path", ["/ping", "/version"])
def test_probe_and_version_are_the_same(servers, path):
    theirs, ours = (requests.get(f"{address}{path}", timeout=5) for address in servers)
    assert (ours.status_code, ours.headers["content-type"], ours.text) == (
        theirs.status_code, theirs.headers["content-type"], theirs.text,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_refused_with_the_same_status(servers, method):
    theirs, ours = (requests.request(method, f"{address}/invocations", timeout=5) for address in servers)
    assert (ours.status_code, ours.headers["allow"]) == (theirs.status_code, theirs.headers["allow"]) == (405, "POST")
    assert set(ours.json()) == {"error_code", "message"}


# --- what is ours alone -----------------------------------------------------------------------------


def test_answers_are_counted(servers):
    ours = servers[1]
    assert post(ours, {"inputs": BOTH, "params": {"max_new_tokens": 3}})[0] == 200
    lines = requests.get(f"{ours}/metrics", timeout=5).text.splitlines()
    (ended,) = [line for line in lines if line.startswith('genai_request_success_total{finished_reason="length"')]
    assert float(ended.rpartition(" ")[2]) >= 2


def test_a_ping_before_the_model_is_there_is_a_503():
    go_on = threading.Event()
    info = ModelInfo(model="m", model_version=None, prompt="")

    def slow(uri, tracking_uri):
        go_on.wait(30)
        return LoadedModel(StandIn({}), info)

    with TestClient(create_app(ServerSettings(), slow)) as client:
        refused = client.post("/invocations", json={"inputs": ["a"]})
        early = client.get("/ping")
        go_on.set()
    assert (early.status_code, refused.status_code) == (503, 503)
    assert refused.json()["error_code"] == "TEMPORARILY_UNAVAILABLE" and refused.headers["retry-after"] == "1"


class Pyfunc:
    """A model with or without a `timeout_s`, which gives back its parameters."""

    def __init__(self, *names: str):
        self.metadata, self._names = self, names

    def get_params_schema(self) -> ParamSchema | None:
        return ParamSchema([ParamSpec(name, "double", 60.0) for name in self._names]) if self._names else None

    def predict(self, data, params):
        return params


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, {"timeout_s": 5.0}),
        ({}, {"timeout_s": 5.0}),
        ({"timeout_s": 2, "seed": 1}, {"timeout_s": 2, "seed": 1}),
        ({"timeout_s": 60, "seed": 1}, {"timeout_s": 5.0, "seed": 1}),
        ({"timeout_s": None}, {"timeout_s": 5.0}),
        ({"timeout_s": 9999}, {"timeout_s": 9999}),  # the model's to refuse, as the next two
        ({"timeout_s": "soon"}, {"timeout_s": "soon"}),
        ([1], [1]),
    ],
)
def test_the_servers_deadline_holds_where_it_is_the_shorter_one(given, meant):
    serving = Mock(predictor=SimpleNamespace(slots=QueueSlots(8)))

    def predicted(*names: str):
        request = AnswerRequest({}, {}, "id-1", "invocations")
        return ScoringCall(Scoring(Pyfunc(*names)), serving, Mock(), request, 5.0).predict(None, given)

    assert predicted("timeout_s") == meant
    assert predicted("seed") == given
    assert predicted() == given
