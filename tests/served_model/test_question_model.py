"""Questions in, answers out: the prompt, history, golden answers, threads and event loops, on both engines."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from tiny_model import LESSONS

from served_model.text_generation.question_model import QuestionModel


@pytest.fixture(scope="module")
def model(package, engine_name):
    """The package on each engine."""
    model = QuestionModel.load(package, {"engine": engine_name, "threads": 1})
    yield model
    model.close()


def test_the_answer_goes_through_the_prompt(model):
    (answer,) = model.answer("Count.", {})
    assert (answer["answer"], answer["finish_reason"], answer["warnings"]) == (LESSONS["Count."], "stop", [])
    assert answer["prompt_tokens"] == len(model.text_model.tokenizer.encode("Question: Count.\nAnswer:").ids)


@pytest.mark.parametrize("way", ["ask", "ask_stream"])
def test_a_whole_prompt_leaves_the_frozen_one_out(model, way):
    """As a server hands in the prompt that is in production now."""

    async def asked(question: str, **how: bool) -> dict:
        if way == "ask":
            return (await model.ask(question, {"max_new_tokens": 8}, **how))[0]
        return [piece async for piece in model.ask_stream(question, {"max_new_tokens": 8}, **how)][-1]

    framed, whole, bare = (
        asyncio.run(asked(question, **how))
        for question, how in (
            ("Count.", {}),
            ("Question: Count.\nAnswer:", {"is_rendered": True}),
            ("Count.", {"is_rendered": True}),
        )
    )
    assert whole["token_ids"] == framed["token_ids"] and whole["prompt_tokens"] == framed["prompt_tokens"]
    assert bare["prompt_tokens"] < framed["prompt_tokens"]


@pytest.mark.parametrize(
    "given",
    [
        list(LESSONS),
        {"question": list(LESSONS)},
        pd.DataFrame({"question": list(LESSONS)}),
        pd.Series(list(LESSONS)),
        [{"question": question} for question in LESSONS],
    ],
    ids=["list", "dict", "frame", "series", "dicts"],
)
def test_every_form_is_answered_in_order(model, given):
    assert [answer["answer"] for answer in model.answer(given)] == list(LESSONS.values())


def test_an_answer_can_be_written_as_json(model):
    for given in (model.answer("Count.")[0], list(model.stream("Count."))[-1]):
        assert json.loads(json.dumps(given))["answer"] == LESSONS["Count."]


def test_parameters_reach_the_engine(model):
    (answer,) = model.answer("Count.", {"max_new_tokens": 3, "stop": ["never"], "unknown": 1, "seed": None})
    assert (answer["completion_tokens"], answer["finish_reason"]) == (3, "length")


@pytest.mark.parametrize("way", ["answer", "stream", "ask", "ask_stream"])
@pytest.mark.parametrize(
    ("given", "params", "message"),
    [
        ("", {}, "A question is empty"),
        (" \n", {}, "A question is empty"),
        ("a", {"top_p": 2.0}, "top_p is 2.0"),
        ({"text": "a"}, {}, "no 'question'"),
    ],
)
def test_bad_input_is_refused_in_every_way(model, way, given, params, message):
    with pytest.raises(MlflowException, match=message) as refused:
        called(model, way, given, params)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def called(model, way, given, params=None):
    """The final answer in one of the four ways to ask."""
    if way == "answer":
        return model.answer(given, params)[-1]
    if way == "stream":
        return list(model.stream(given, params))[-1]

    async def asked():
        if way == "ask":
            return (await model.ask(given, params))[-1]
        return [event async for event in model.ask_stream(given, params)][-1]

    return asyncio.run(asked())


@pytest.mark.parametrize("question", LESSONS)
def test_all_ways_give_the_same_answer(model, question):
    answers = [called(model, way, question) for way in ("answer", "stream", "ask", "ask_stream")]
    assert {answer["answer"] for answer in answers} == {LESSONS[question]}
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 1


def test_a_stream_answers_one_question(model):
    with pytest.raises(MlflowException, match="A stream answers one question; the input has 2"):
        next(model.stream(["a", "b"]))
    with pytest.raises(MlflowException, match="A stream answers one question; the input has 2"):
        model.ask_stream(["a", "b"])


def test_bad_input_of_an_asynchronous_stream_raises_before_the_first_piece(model):
    with pytest.raises(MlflowException, match="A question is empty"):
        model.ask_stream("")


def test_several_questions_from_an_event_loop(model):
    assert [answer["answer"] for answer in asyncio.run(model.ask(list(LESSONS)))] == list(LESSONS.values())


def test_cancelling_a_list_of_questions_ends_the_work_of_all(model):
    async def idle():
        end = time.monotonic() + 5
        while model.engine_load().running or model.engine_load().waiting:
            assert time.monotonic() < end
            await asyncio.sleep(0.001)

    async def cancelled():
        await idle()  # the answers before are told a moment before their batch is left
        before = model.engine_load().cancelled
        sampled = {"max_new_tokens": 200, "temperature": 5.0, "top_k": 50}
        asking = asyncio.create_task(model.ask(["Count."] * 40, sampled))
        while not model.engine_load().running:
            await asyncio.sleep(0.001)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await idle()
        return model.engine_load().cancelled - before

    assert asyncio.run(cancelled()) > 20


def test_answers_that_a_thread_waits_for_are_stopped_from_another_one(model):
    stops, before = [], model.engine_load().cancelled
    stopping = threading.Timer(0.05, lambda: stops[0]())

    def on_start(stop):
        stops.append(stop)
        stopping.start()

    sampled = {"temperature": 3.0, "max_new_tokens": 200}
    answers = model.answer(["Count."] * 400, sampled, on_start=on_start)
    assert len(answers) == 400 and len(stops) == 1
    assert sum(answer["finish_reason"] == "cancelled" for answer in answers) > 20
    assert model.engine_load().cancelled > before


def test_answers_that_are_stopped_before_they_begin(model):
    (answer,) = model.answer("Count.", {"max_new_tokens": 200}, on_start=lambda stop: stop())
    assert answer["finish_reason"] == "cancelled"


def test_the_time_before_the_engine_began_is_part_of_an_answers_time(model):
    answers = model.answer(["Count."] * 200, {"max_new_tokens": 30, "temperature": 3.0})
    written = [answer for answer in answers if answer["completion_tokens"]]
    assert written and all(0 <= answer["queued_s"] <= answer["first_token_s"] + 0.01 for answer in written)
    assert max(answer["queued_s"] for answer in answers) > min(answer["queued_s"] for answer in answers)


def test_a_history_is_given_as_turns_and_a_first_question_through_the_template(model, monkeypatch):
    seen, tokenizer = [], model.text_model.tokenizer

    def complete(prompts, *_):
        seen.extend(tokenizer.decode(prompt.token_ids, skip_special_tokens=False) for prompt in prompts)
        return []

    monkeypatch.setattr(model.text_model, "complete", complete)
    model.answer([{"question": "And now?", "history": ["Hi", "Hello!"]}, "Hi"])
    end = "<|endoftext|>"
    assert seen == [f"Hi{end}Hello!{end}And now?{end}", "Question: Hi\nAnswer:"]


def test_golden_answers_are_those_recorded_for_the_engine(model, engine_name):
    whole = model.text_model.tokenizer.encode(" " + LESSONS["Count."]).ids
    (golden,) = model.golden
    assert golden["question"] == "Count."
    assert golden["token_ids"] == (whole[:3] if engine_name == "openvino" else whole)


def test_a_package_without_golden_answers(package, engine_name):
    model = QuestionModel.load({name: path for name, path in package.items() if name != "golden"}, {"engine": "torch"})
    model.close()
    assert model.golden == []


def test_it_tells_which_engine_answers_and_why(model, engine_name):
    told = model.describe()
    assert (told["name"], told["reason"], told["threads"]) == (engine_name, "asked for", 1)
    assert model.is_healthy()


def test_without_a_converted_model_torch_answers(package):
    model = QuestionModel.load({name: path for name, path in package.items() if name != "ir"})
    assert model.answer("Count.")[0]["answer"] == LESSONS["Count."]
    assert (model.describe()["name"], model.describe()["reason"]) == ("torch", "there is no converted model")
    model.close()
    assert not model.is_healthy()


def test_another_turn_format_is_refused(package, tmp_path):
    prompt = json.loads(open(package["prompt"]).read()) | {"turn_format": "chat"}
    (tmp_path / "prompt.json").write_text(json.dumps(prompt))
    with pytest.raises(MlflowException, match="turn format is 'chat'"):
        QuestionModel.load(package | {"prompt": str(tmp_path / "prompt.json")}, {"engine": "torch"})
