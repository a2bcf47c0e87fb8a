"""The predictor: a bounded number of questions at once, none before the model is ready, none by a failed engine."""

from __future__ import annotations

import asyncio

import pytest
from conftest import StandIn
from mlflow.exceptions import MlflowException

from genai_server.errors import BadQuestion, EngineDown, NotReady, Overloaded
from genai_server.predictor import FAILED, LOADING, READY, LoadedModel, Predictor

INFO = {"model": "m", "model_version": None}


def loaded(model: StandIn, queue_limit: int = 8) -> Predictor:
    return Predictor(lambda: LoadedModel(model, INFO), queue_limit)


def test_no_more_than_the_limit_are_accepted():
    async def scenario():
        release = asyncio.Event()
        predictor = loaded(StandIn({}, hold=release), queue_limit=2)
        await predictor.load()
        accepted = [asyncio.create_task(predictor.answer({"question": str(i)}, {})) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await predictor.answer({"question": "one too many"}, {})
        release.set()
        answers = await asyncio.gather(*accepted)
        return answers, await predictor.answer({"question": "there is room again"}, {})

    answers, again = asyncio.run(scenario())
    assert [answer["question"] for answer in answers] == ["0", "1"]
    assert again["question"] == "there is room again"


def test_a_closed_stream_makes_room_again():
    async def scenario():
        predictor = loaded(StandIn({}), queue_limit=1)
        await predictor.load()
        for _ in range(3):
            pieces = predictor.stream({"question": "a"}, {})
            await anext(pieces)
            await pieces.aclose()
        return await predictor.answer({"question": "a"}, {})

    assert asyncio.run(scenario())["question"] == "a"


def test_nothing_is_answered_before_the_model_is_loaded():
    async def scenario():
        with pytest.raises(NotReady):
            await Predictor(lambda: None, 1).answer({"question": "a"}, {})

    asyncio.run(scenario())


def test_an_engine_that_is_down_turns_ready_off_and_on_again():
    model = StandIn({})
    predictor = loaded(model)
    asyncio.run(predictor.load())
    assert predictor.status == READY
    model.healthy = False
    assert predictor.status == LOADING
    model.healthy = True
    assert predictor.status == READY


@pytest.mark.parametrize(("code", "ours"), [(1000, BadQuestion), (1, EngineDown)])
def test_the_models_refusals_become_the_servers(code, ours):
    class Refusing(StandIn):
        async def ask(self, question, params):
            raise MlflowException("no", error_code=code)

    async def scenario():
        predictor = loaded(Refusing({}))
        await predictor.load()
        with pytest.raises(ours, match="no"):
            await predictor.answer({"question": "a"}, {})

    asyncio.run(scenario())


def test_a_model_that_cannot_be_loaded_is_told_in_one_line():
    def broken():
        raise OSError("no such file\nand a second line")

    predictor = Predictor(broken, 1)
    asyncio.run(predictor.load())
    assert (predictor.status, predictor.failure) == (FAILED, "no such file")
