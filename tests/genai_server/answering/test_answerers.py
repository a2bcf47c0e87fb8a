"""Both ways to ask a model: through its own batching, and on a bounded number of threads."""

from __future__ import annotations

import asyncio
import threading

import mlflow
import numpy as np
import pandas as pd
import pytest

from genai_server.answer import Answer, Usage
from genai_server.answering.answerers import EngineAnswerer, ThreadAnswerer, answerer_of
from genai_server.errors import BadQuestion, ModelFailed

QUESTION = {"question": "What is MLflow?", "history": []}


class Pyfunc:
    def __init__(self, say=lambda question: question):
        self.say = say

    def predict(self, questions, params):
        return [self.say(item["question"]) for item in questions]


@pytest.fixture(scope="module")
def engine(saved_tiny):
    answerer = answerer_of(mlflow.pyfunc.load_model(str(saved_tiny)))
    yield answerer
    answerer.close()


async def pieces_of(answerer, question, params) -> list:
    return [piece async for piece in answerer.stream(question, params)]


# --- which way ---


def test_a_packaged_model_answers_through_its_engine(engine):
    assert isinstance(engine, EngineAnswerer)
    assert engine.prompt.name == "qa-simple" and engine.golden[0].question == "What is MLflow?"
    assert engine.describe()["name"] == "torch" and engine.is_healthy()
    assert engine.load().running == 0


class Shouting(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [item["question"].upper() for item in model_input]


def test_any_other_model_answers_on_threads(tmp_path):
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Shouting(), pip_requirements=[])
    answerer = answerer_of(mlflow.pyfunc.load_model(str(tmp_path / "m")))
    assert isinstance(answerer, ThreadAnswerer) and answerer.load() is None and not answerer.golden
    assert asyncio.run(answerer.ask({"question": "a"}, {})) == Answer("A")


def test_a_model_of_another_flavor_answers_on_threads(tmp_path, monkeypatch):
    (tmp_path / "shouting_loader.py").write_text(
        "class Shouting:\n"
        "    def predict(self, model_input, params=None):\n"
        "        return [item['question'].upper() for item in model_input]\n\n\n"
        "def _load_pyfunc(path):\n"
        "    return Shouting()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mlflow.pyfunc.save_model(tmp_path / "m", loader_module="shouting_loader", pip_requirements=[])
    answerer = answerer_of(mlflow.pyfunc.load_model(str(tmp_path / "m")))
    assert isinstance(answerer, ThreadAnswerer)
    assert asyncio.run(answerer.ask({"question": "a"}, {})) == Answer("A")


# --- the engine's way ---


def test_a_stream_adds_up_to_the_answer(engine):
    pieces = asyncio.run(pieces_of(engine, QUESTION, {"max_new_tokens": 12}))
    answer = asyncio.run(engine.ask(QUESTION, {"max_new_tokens": 12}))
    assert len(pieces) > 2 and "".join(pieces[:-1]) == answer.text
    assert pieces[-1].token_ids == answer.token_ids


def test_a_text_is_continued_without_the_prompt(engine):
    text = {"text": "Answer:"}
    answer = asyncio.run(engine.ask(text, {"max_new_tokens": 4}))
    assert answer.usage.prompt_tokens < asyncio.run(engine.ask(QUESTION, {"max_new_tokens": 4})).usage.prompt_tokens
    pieces = asyncio.run(pieces_of(engine, text, {"max_new_tokens": 4}))
    assert pieces[-1].token_ids == answer.token_ids


def test_a_scoring_that_is_stopped_ends_where_it_is(engine):
    scoring = engine.scoring()

    async def scenario():
        rows = [{"question": "What is MLflow?"}] * 40
        predicting = asyncio.create_task(
            engine.score(lambda: scoring.predict(rows, {"max_new_tokens": 90}), timeout_s=60)
        )
        while not engine.load().running:
            await asyncio.sleep(0.001)
        scoring.stop()
        return await predicting

    answers = asyncio.run(scenario())
    assert "cancelled" in {answer["finish_reason"] for answer in answers}


def test_a_scoring_that_is_stopped_before_it_begins_ends_at_once(engine):
    scoring = engine.scoring()
    scoring.stop()
    (answer,) = scoring.predict(["What is MLflow?"], {"max_new_tokens": 90})
    assert answer["finish_reason"] == "cancelled" and answer["completion_tokens"] < 5


def test_a_version_that_was_registered_before_it_could_be_stopped_still_scores():
    class Early:
        golden, prompt = (), {}

        def answer(self, model_input, params=None):
            return ["early"]

        async def ask(self, model_input, params=None):
            return ["early"]

    class Loaded(Pyfunc):
        metadata = None

        def predict(self, questions, params):
            return Early().answer(questions, params)

    answerer = EngineAnswerer(Loaded(), Early())
    assert answerer.scoring().predict(["a"], {}) == ["early"]
    answerer.scoring().stop()


# --- the threads' way ---


def test_an_answer_with_fields_keeps_them():
    answerer = ThreadAnswerer(Pyfunc(lambda question: {"answer": question, "finish_reason": "length"}))
    assert asyncio.run(answerer.ask({"question": "a"}, {})) == Answer("a", "length")
    assert asyncio.run(pieces_of(answerer, {"question": "a"}, {})) == ["a", Answer("a", "length")]


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "first_token_s": 0.1, "total_s": 0.2, "finish_reason": "stop"}
USAGE = Usage(prompt_tokens=3, completion_tokens=2, first_token_s=0.1, total_s=0.2)


@pytest.mark.parametrize(
    ("returned", "answer"),
    [
        (["a"], Answer("a")),
        ("a", Answer("a")),
        (("a",), Answer("a")),
        ([5], Answer("5")),
        (np.array(["a"]), Answer("a")),
        (pd.Series(["a"]), Answer("a")),
        (pd.DataFrame({"text": ["a"]}), Answer("a")),
        (pd.DataFrame({"answer": ["a"], "score": [0.5]}), Answer("a")),
        (pd.DataFrame({"text": ["a"], "score": [0.5]}), Answer('{"text": "a", "score": 0.5}')),
        (pd.DataFrame([COUNTS | {"answer": "a"}]), Answer("a", "stop", USAGE)),
        ({"predictions": ["a"]}, Answer("a")),
        ({"answer": "a"}, Answer("a")),
        ([{"answer": 5, "finish_reason": "my own word"}], Answer("5")),
        # counts that nobody can reckon with are left out
        ([{"answer": "a", "completion_tokens": 2}], Answer("a")),
        ([COUNTS | {"answer": "a", "total_s": "soon"}], Answer("a", "stop")),
        ([COUNTS | {"answer": "a", "prompt_tokens": -1}], Answer("a", "stop")),
    ],
)
def test_whatever_mlflow_lets_a_model_return_becomes_an_answer(returned, answer):
    pyfunc = Pyfunc()
    pyfunc.predict = lambda questions, params: returned
    assert asyncio.run(ThreadAnswerer(pyfunc).ask({"question": "q"}, {})) == answer


@pytest.mark.parametrize("returned", [[], pd.DataFrame(), None])
def test_no_answer_is_a_failure_of_the_model(returned):
    pyfunc = Pyfunc()
    pyfunc.predict = lambda questions, params: returned
    with pytest.raises(ModelFailed):
        asyncio.run(ThreadAnswerer(pyfunc).ask({"question": "q"}, {}))


def test_what_the_model_raises_is_told_without_its_words(caplog):
    def broken(question):
        raise ZeroDivisionError("my secret")

    with pytest.raises(ModelFailed) as failed:
        asyncio.run(ThreadAnswerer(Pyfunc(broken)).ask({"question": "q"}, {}))
    assert "secret" not in failed.value.sentence and "ZeroDivisionError" in caplog.text


def test_a_text_cannot_be_continued_by_a_model_that_answers_questions():
    with pytest.raises(BadQuestion, match="cannot continue"):
        asyncio.run(ThreadAnswerer(Pyfunc()).ask({"text": "a"}, {}))


def test_a_model_without_batching_has_four_threads():
    """So that it cannot take every core and every megabyte: each thread may hold a whole model's working memory."""
    barrier, under_way, release = threading.Barrier(4), [], threading.Event()

    def slow(question):
        under_way.append(question)
        barrier.wait(10)  # four are there at once
        release.wait(10)
        return question

    async def scenario():
        answerer = ThreadAnswerer(Pyfunc(slow))
        asking = [asyncio.create_task(answerer.ask({"question": str(i)}, {})) for i in range(8)]
        while barrier.n_waiting or len(under_way) < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        most = len(under_way)
        release.set()
        await asyncio.gather(*asking)
        answerer.close()
        return most, answerer.describe()["threads"]

    assert asyncio.run(scenario()) == (4, 4)


def test_no_more_threads_than_given_and_the_event_loop_stays_free():
    under_way, most, lock, release = 0, 0, threading.Lock(), threading.Event()

    def slow(question):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        release.wait(10)
        with lock:
            under_way -= 1
        return question

    async def scenario():
        answerer = ThreadAnswerer(Pyfunc(slow), threads=2)
        asking = [asyncio.create_task(answerer.ask({"question": str(i)}, {})) for i in range(6)]
        while most < 2:
            await asyncio.sleep(0.001)
        answerer.close()  # the six are still answered
        release.set()
        return [answer.text for answer in await asyncio.gather(*asking)]

    assert asyncio.run(scenario()) == list("012345")
    assert most == 2
