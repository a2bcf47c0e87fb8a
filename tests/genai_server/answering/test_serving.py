"""One question on its way: versions on the answer, the deadline, the model's refusals, the place in the queue."""

from __future__ import annotations

import asyncio

import pytest
from mlflow.exceptions import MlflowException

from genai_server.answer import Answer, AnswerVersions, ServedAnswer, Usage
from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel, Predictor
from genai_server.answering.serving import Serving
from genai_server.errors import BadQuestion, EngineDown, NotReady, Overloaded
from genai_server.model_info import ModelInfo
from genai_server.runtime.metrics import Metrics
from genai_server.tracing.tracer import Tracer

INFO = ModelInfo("m", model_version="7", prompt="qa-simple/3")
COUNTED = {"prompt_tokens": 3, "completion_tokens": 2, "first_token_s": 0.1, "total_s": 0.2, "finish_reason": "stop"}


class Pyfunc:
    """Answers with the question; remembers the parameters; refuses where it is told to."""

    def __init__(self, error: Exception | None = None):
        self.error, self.params = error, {}

    def predict(self, questions, params):
        self.params = params
        if self.error:
            raise self.error
        return [{"answer": item["question"], **COUNTED} for item in questions]


class Traces(Tracer):
    """Takes every request and writes none."""

    def __init__(self):
        super().__init__(0)
        self.taken, self.failures = [], []

    def answered(self, asked, answer, versions, started_ns, ended_ns):
        assert 0 < started_ns <= ended_ns
        self.taken.append((asked.request_id, versions.model_version))

    def failed(self, asked, error_type, versions, started_ns, ended_ns):
        assert 0 < started_ns <= ended_ns
        self.failures.append((asked.request_id, error_type))


def served(pyfunc: Pyfunc, timeout_s: float = 60.0, queue_limit: int = 8, start: bool = True) -> Serving:
    predictor = Predictor(lambda uri: LoadedModel(ThreadAnswerer(pyfunc), INFO), "uri", queue_limit)
    if start:
        asyncio.run(predictor.start())
    return Serving(predictor, Metrics(lambda: "m", lambda: None), Traces(), timeout_s)


def asked(**params) -> AnswerRequest:
    return AnswerRequest({"question": "What is MLflow?", "history": []}, params, "id-1", "ask")


def test_an_answer_names_the_versions_that_gave_it_and_the_request():
    answer = asyncio.run(served(Pyfunc()).answer(asked()))
    versions = AnswerVersions("m", "7", "qa-simple/3", "model")
    assert answer == ServedAnswer(Answer("What is MLflow?", usage=Usage(3, 2, 0.1, 0.2)), versions, "id-1")


def test_a_stream_ends_with_the_same_whole_answer():
    async def scenario():
        return [piece async for piece in served_now.stream(asked())]

    served_now = served(Pyfunc())
    pieces = asyncio.run(scenario())
    assert pieces == ["What is MLflow?", asyncio.run(served_now.answer(asked()))]


@pytest.mark.parametrize(("wanted", "given"), [({}, 60.0), ({"timeout_s": 5}, 5), ({"timeout_s": 100}, 60.0)])
def test_the_shorter_deadline_holds(wanted, given):
    pyfunc = Pyfunc()
    asyncio.run(served(pyfunc).answer(asked(**wanted, seed=1)))
    assert pyfunc.params == {"timeout_s": given, "seed": 1}


@pytest.mark.parametrize(("code", "ours"), [(1000, BadQuestion), (1, EngineDown)])
def test_the_models_refusals_become_the_servers(code, ours):
    serving = served(Pyfunc(MlflowException("no such thing", error_code=code)), queue_limit=1)
    for _ in range(2):  # the place comes back
        with pytest.raises(ours, match="no such thing"):
            asyncio.run(serving.answer(asked()))
        with pytest.raises(ours, match="no such thing"):
            asyncio.run(anext(serving.stream(asked())))
    assert serving.tracer.taken == [] and serving.tracer.failures == [("id-1", ours.code)] * 4
    assert b"requests_cancelled_total{" not in serving.metrics.text()


def test_what_is_refused_for_want_of_a_place_is_not_traced():
    async def scenario():
        await serving.predictor.start()
        with serving.predictor.accepted(), pytest.raises(Overloaded):
            await serving.answer(asked())

    serving = served(Pyfunc(), queue_limit=1, start=False)
    asyncio.run(scenario())
    assert serving.tracer.failures == []


@pytest.mark.parametrize("streams", [False, True])
def test_a_caller_who_leaves_is_counted_and_traced_once(streams):
    class Waiting(ThreadAnswerer):
        async def ask(self, question, params, group=0):
            await asyncio.sleep(60)

        async def stream(self, question, params):
            yield "a"
            await asyncio.sleep(60)

    async def scenario():
        await serving.predictor.start()
        if streams:
            pieces = serving.stream(asked())
            await anext(pieces)
            await pieces.aclose()
            return
        asking = asyncio.create_task(serving.answer(asked()))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    serving = served(Pyfunc(), start=False)
    serving.predictor._load = lambda uri: LoadedModel(Waiting(Pyfunc()), INFO)
    asyncio.run(scenario())
    assert b'genai_requests_cancelled_total{model_name="m"} 1.0' in serving.metrics.text()
    assert serving.tracer.failures == [("id-1", "caller_left")]


def test_a_stream_that_is_closed_after_its_last_piece_was_whole():
    async def scenario():
        await serving.predictor.start()
        pieces = serving.stream(asked())
        while isinstance(await anext(pieces), str):
            pass
        await pieces.aclose()

    serving = served(Pyfunc(), start=False)
    asyncio.run(scenario())
    assert serving.tracer.failures == [] and len(serving.tracer.taken) == 1
    assert b"requests_cancelled_total{" not in serving.metrics.text()


def test_a_stream_holds_a_place_until_it_is_closed():
    async def scenario():
        await serving.predictor.start()
        for _ in range(3):
            pieces = serving.stream(asked())
            await anext(pieces)
            with pytest.raises(Overloaded):
                await serving.answer(asked())
            await pieces.aclose()
        return await serving.answer(asked())

    serving = served(Pyfunc(), queue_limit=1, start=False)
    assert asyncio.run(scenario()).answer.text == "What is MLflow?"


def test_only_whole_answers_are_counted_and_traced():
    async def scenario():
        await serving.predictor.start()
        pieces = serving.stream(asked())
        await anext(pieces)
        await pieces.aclose()
        assert serving.tracer.taken == [] and b"genai_request_success_total{" not in serving.metrics.text()
        await serving.answer(asked())

    serving = served(Pyfunc(), start=False)
    asyncio.run(scenario())
    assert serving.tracer.taken == [("id-1", "7")]
    assert b'genai_generation_tokens_total{model_name="m"} 2.0' in serving.metrics.text()


def test_who_answers_is_known_once_somebody_does():
    serving = served(Pyfunc(), start=False)
    with pytest.raises(NotReady, match="loading"):
        serving.predictor.loaded  # noqa: B018 - the property is what is asked
    asyncio.run(serving.predictor.start())
    assert serving.predictor.loaded.info == INFO
