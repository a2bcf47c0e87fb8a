"""Both ways to ask a model: through its own batching, and on a bounded number of threads."""

from __future__ import annotations

import asyncio
import threading

import mlflow
import pytest
from conftest import saved_model

from genai_server.answerers import EngineAnswerer, ThreadAnswerer, answerer_of
from genai_server.errors import BadQuestion

QUESTION = {"question": "What is MLflow?", "history": []}


class Pyfunc:
    def __init__(self, say=lambda question: question):
        self.say = say

    def predict(self, questions, params):
        return [self.say(item["question"]) for item in questions]


@pytest.fixture(scope="module")
def engine(tmp_path_factory, tiny_gpt2):
    answerer = answerer_of(mlflow.pyfunc.load_model(str(saved_model(tmp_path_factory.mktemp("served"), tiny_gpt2))))
    yield answerer
    answerer.close()


async def pieces_of(answerer, question, params) -> list:
    return [piece async for piece in answerer.stream(question, params)]


# --- which way ---


def test_a_packaged_model_answers_through_its_engine(engine):
    assert isinstance(engine, EngineAnswerer)
    assert engine.prompt["name"] == "qa-simple" and engine.golden[0]["question"] == "What is MLflow?"
    assert engine.describe()["name"] == "torch" and engine.is_healthy()
    assert engine.load().running == 0


class Shouting(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [item["question"].upper() for item in model_input]


def test_any_other_model_answers_on_threads(tmp_path):
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Shouting(), pip_requirements=[])
    answerer = answerer_of(mlflow.pyfunc.load_model(str(tmp_path / "m")))
    assert isinstance(answerer, ThreadAnswerer) and answerer.load() is None and not answerer.golden
    assert asyncio.run(answerer.ask({"question": "a"}, {})) == {"answer": "A"}


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
    assert asyncio.run(answerer.ask({"question": "a"}, {})) == {"answer": "A"}


# --- the engine's way ---


def test_a_stream_adds_up_to_the_answer(engine):
    pieces = asyncio.run(pieces_of(engine, QUESTION, {"max_new_tokens": 12}))
    answer = asyncio.run(engine.ask(QUESTION, {"max_new_tokens": 12}))
    assert len(pieces) > 2 and "".join(piece["delta"] for piece in pieces) == answer["answer"]
    assert pieces[-1]["token_ids"] == answer["token_ids"]


def test_a_text_is_continued_without_the_prompt(engine):
    text = {"text": "Answer:"}
    answer = asyncio.run(engine.ask(text, {"max_new_tokens": 4}))
    assert answer["prompt_tokens"] < asyncio.run(engine.ask(QUESTION, {"max_new_tokens": 4}))["prompt_tokens"]
    pieces = asyncio.run(pieces_of(engine, text, {"max_new_tokens": 4}))
    assert pieces[-1]["token_ids"] == answer["token_ids"]


class HeldModel:
    """What an EngineAnswerer knows of a model, held until it is released."""

    golden, prompt = (), {}

    def __init__(self):
        self.release, self.closed = asyncio.Event(), False

    async def ask(self, question, params):
        await self.release.wait()
        return [{"answer": question["question"]}]

    async def ask_stream(self, question, params):
        await self.release.wait()
        yield {"delta": "a"}
        yield {"delta": "", "answer": "a"}

    def close(self):
        self.closed = True


def test_it_closes_after_the_last_answer_under_way():
    async def scenario():
        model = HeldModel()
        answerer = EngineAnswerer(None, model)
        asking = asyncio.create_task(answerer.ask(QUESTION, {}))
        streaming = asyncio.create_task(pieces_of(answerer, QUESTION, {}))
        await asyncio.sleep(0)
        answerer.close_when_idle()
        assert not model.closed
        model.release.set()
        answer, pieces = await asyncio.gather(asking, streaming)
        return model.closed, answer, len(pieces)

    assert asyncio.run(scenario()) == (True, {"answer": "What is MLflow?"}, 2)


def test_it_closes_at_once_when_nothing_is_under_way():
    async def scenario():
        model = HeldModel()
        EngineAnswerer(None, model).close_when_idle()
        return model.closed

    assert asyncio.run(scenario())


# --- the threads' way ---


def test_an_answer_with_fields_keeps_them():
    answerer = ThreadAnswerer(Pyfunc(lambda question: {"answer": question, "finish_reason": "length"}))
    assert asyncio.run(answerer.ask({"question": "a"}, {})) == {"answer": "a", "finish_reason": "length"}
    assert asyncio.run(pieces_of(answerer, {"question": "a"}, {})) == [
        {"delta": "a"}, {"delta": "", "answer": "a", "finish_reason": "length"},
    ]  # fmt: skip


def test_a_text_cannot_be_continued_by_a_model_that_answers_questions():
    with pytest.raises(BadQuestion, match="cannot continue"):
        asyncio.run(ThreadAnswerer(Pyfunc()).ask({"text": "a"}, {}))


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
        answerer.close_when_idle()  # the six are still answered
        release.set()
        return [answer["answer"] for answer in await asyncio.gather(*asking)]

    assert asyncio.run(scenario()) == list("012345")
    assert most == 2
