"""The predictor: a bounded number of questions at once, and none before the model is ready."""

from __future__ import annotations

import asyncio
import threading

import pytest

from genai_server.errors import NotReady, Overloaded
from genai_server.predictor import FAILED, LoadedModel, Predictor

INFO = {"model": "m", "model_version": None}


def test_no_more_than_workers_and_queue_are_accepted():
    release = threading.Event()

    def stuck(question, params):
        release.wait(30)
        return [question]

    async def scenario():
        predictor = Predictor(lambda: LoadedModel(stuck, [], INFO), workers=1, queue_limit=1)
        await predictor.load()
        accepted = [asyncio.create_task(predictor.answer({"question": str(i)}, {})) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await predictor.answer({"question": "one too many"}, {})
        release.set()
        answers = await asyncio.gather(*accepted)
        again = await predictor.answer({"question": "there is room again"}, {})
        predictor.close()
        return answers, again

    answers, again = asyncio.run(scenario())
    assert [answer["question"] for answer in answers] == ["0", "1"]
    assert again["question"] == "there is room again"


def test_nothing_is_answered_before_the_model_is_loaded():
    async def scenario():
        with pytest.raises(NotReady):
            await Predictor(lambda: None, 1, 1).answer({"question": "a"}, {})

    asyncio.run(scenario())


def test_a_model_that_cannot_be_loaded_is_told_in_one_line():
    def broken():
        raise OSError("no such file\nand a second line")

    predictor = Predictor(broken, 1, 1)
    asyncio.run(predictor.load())
    assert (predictor.status, predictor.failure) == (FAILED, "no such file")
