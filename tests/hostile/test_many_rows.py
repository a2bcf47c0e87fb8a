"""A request of many rows: it holds a place for each, has a most, and leaves room for callers with one question."""

from __future__ import annotations

import threading

import pytest
from fastapi.testclient import TestClient

from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.answering.queue_slots import QueueSlots
from genai_server.errors import Overloaded, TooLarge
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo("m", "models:/m/1", "1", prompt="p/1", engine={"name": "pyfunc"})


class Metadata:
    def get_input_schema(self):
        return None

    def get_params_schema(self):
        return None


class Pyfunc:
    """Answers each row, once it is let go."""

    metadata = Metadata()

    def __init__(self):
        self.started, self.go_on = threading.Event(), threading.Event()

    def predict(self, data, params=None):
        self.started.set()
        assert self.go_on.wait(20)
        return ["answer"] * len(data)


@pytest.fixture
def held():
    """A server with 8 places whose model waits, and the model."""
    pyfunc = Pyfunc()
    settings = ServerSettings(queue_limit=8, request_timeout_s=20)
    with TestClient(create_app(settings, lambda *_: LoadedModel(ThreadAnswerer(pyfunc), INFO))) as client:
        while client.get("/health/ready").status_code != 200:
            pass
        yield client, pyfunc
        pyfunc.go_on.set()


MANY = {
    "/invocations": lambda n: {"inputs": ["q"] * n},
    "/ask/batch": lambda n: {"questions": [{"question": "q"}] * n},
    "/v1/completions": lambda n: {"model": "m", "prompt": ["q"] * n},
}


@pytest.mark.parametrize("path", MANY)
def test_more_rows_than_a_request_may_have_are_refused_with_the_number(held, path):
    client, pyfunc = held
    refused = client.post(path, json=MANY[path](5))
    assert refused.status_code == 413
    assert "has 5 questions; one request may have 4" in refused.text and "QUEUE_LIMIT" in refused.text
    assert not pyfunc.started.is_set()


def test_rows_count_as_places_and_the_last_quarter_is_for_single_questions(held):
    """Before, a request held one place whatever its rows: 30,000 of them stood before the next caller."""
    client, pyfunc = held
    many = threading.Thread(target=client.post, args=("/invocations",), kwargs={"json": MANY["/invocations"](4)})
    many.start()
    assert pyfunc.started.wait(10)
    refused = client.post("/invocations", json=MANY["/invocations"](4))
    assert refused.status_code == 429 and refused.headers["retry-after"]
    singles = [threading.Thread(target=client.post, args=("/ask",), kwargs={"json": {"question": "q"}}) for _ in "1234"]
    for thread in singles:
        thread.start()
    while client.app.state.serving.predictor.slots.in_use < 8:
        pass
    assert client.post("/ask", json={"question": "q"}).status_code == 429
    pyfunc.go_on.set()
    for thread in (many, *singles):
        thread.join(10)
    assert client.app.state.serving.predictor.slots.in_use == 0
    assert client.post("/invocations", json=MANY["/invocations"](4)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"inputs": {"question": ["q"] * 5}}, {"dataframe_split": {"columns": ["question"], "data": [["q"]] * 5}},
     {"dataframe_records": [{"question": "q"}] * 5}, {"instances": ["q"] * 5}],
)  # fmt: skip
def test_every_form_of_rows_is_counted(held, body):
    client, _ = held
    assert client.post("/invocations", json=body).status_code == 413
    csv = "question\n" + "q\n" * 5
    assert client.post("/invocations", content=csv, headers={"content-type": "text/csv"}).status_code == 413


def test_places_are_given_back_whatever_happens():
    places = QueueSlots(8)
    for count in (0, 1, 4):
        with pytest.raises(KeyError), places.hold(count):
            assert places.in_use == count
            raise KeyError
    for count, error in ((5, TooLarge), (4, Overloaded)):
        with places.hold(4), pytest.raises(error), places.hold(count):
            pass
    with places.hold(1), places.hold(4, held=1):
        assert places.in_use == 4
    assert places.in_use == 0


def test_a_limit_of_one_still_takes_one():
    with QueueSlots(1).hold(1):
        pass


WIDE = {f"c{n}": ["q"] for n in range(1500)}


@pytest.mark.parametrize(
    "body",
    [{"inputs": WIDE}, {"dataframe_split": {"columns": list(WIDE), "data": [list(WIDE)]}},
     {"dataframe_records": [dict.fromkeys(WIDE, "q")]}, {"instances": [dict.fromkeys(WIDE, "q")]}],
)  # fmt: skip
def test_very_many_columns_are_refused_before_they_are_a_table(held, body):
    """Eight requests of 60,000 columns took 900 MB, and a probe waited for 2.9 s."""
    client, _ = held
    assert "1500 columns; it may have 1000" in client.post("/invocations", json=body).text
    csv = client.post("/invocations", content=",".join(WIDE), headers={"content-type": "text/csv"})
    assert csv.status_code == 413 and "1500 columns" in csv.text


@pytest.mark.parametrize(("rows", "characters", "said"), [(5000, 1, "5000 questions"), (4, 40_000_000, "unpacks to")])
def test_a_small_parquet_body_that_unpacks_to_much_is_refused_before_it_does(held, rows, characters, said):
    """Some KB of it took 1.6 GB of memory and 13 s."""
    import io

    import pandas as pd

    client, _ = held
    packed = io.BytesIO()
    texts = [str(n) + "a" * characters for n in range(rows)]
    pd.DataFrame({"question": texts}).to_parquet(packed, compression="zstd", index=False)
    body = packed.getvalue()
    assert len(body) < 100_000
    headers = {"content-type": "application/vnd.apache.parquet"}
    refused = client.post("/invocations", content=body, headers=headers)
    assert refused.status_code == 413 and said in refused.text


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b"{"), ("application/json", b"[" * 100_000), ("application/json", b"5"), ("text/csv", b""),
     ("application/vnd.apache.parquet", b"PAR1"), ("application/json", b"{\"inputs\": 5}")],
)  # fmt: skip
def test_what_cannot_be_read_is_left_to_mlflow_to_say(held, content_type, body):
    client, pyfunc = held
    pyfunc.go_on.set()
    assert client.post("/invocations", content=body, headers={"content-type": content_type}).status_code in (200, 400)
