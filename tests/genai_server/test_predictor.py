"""The predictor: which model answers, its golden prompts, and how many questions are taken at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest
from conftest import StandIn
from mlflow.exceptions import MlflowException
from stand_in_server import wait_until

from genai_server.errors import Conflict, NotReady, Overloaded
from genai_server.predictor import FAILED, LOADING, READY, STOPPING, LoadedModel, Predictor

GOLDEN = [{"question": "What is MLflow?", "token_ids": [1, 2, 3], "max_new_tokens": 8}]
SAME, OTHER = {"token_ids": [1, 2, 3]}, {"token_ids": [1, 2, 4]}


def loaded(model: StandIn, version: str = "1") -> LoadedModel:
    return LoadedModel(model, {"model": "m", "model_version": version})


def predictor_of(model: StandIn, queue_limit: int = 8) -> Predictor:
    """Started, with a registry that knows this one model."""
    predictor = Predictor(lambda uri: loaded(model), "models:/m@champion", queue_limit)
    asyncio.run(predictor.start())
    return predictor


def shelf(**models: StandIn) -> Predictor:
    """Started with version v1 of a registry of several."""
    predictor = Predictor(lambda uri: loaded(models[uri], uri), "v1", 8)
    asyncio.run(predictor.start())
    return predictor


# --- from loading to ready, and to failed ---


def test_ready_once_the_golden_questions_were_answered_as_recorded():
    predictor = Predictor(lambda uri: loaded(StandIn(SAME, GOLDEN)), "uri", 1)
    assert predictor.status == LOADING
    asyncio.run(predictor.start())
    assert (predictor.status, predictor.failure) == (READY, "")


def test_other_tokens_than_recorded_are_a_failure_that_names_the_question():
    model = StandIn(OTHER, GOLDEN)
    predictor = predictor_of(model)
    assert predictor.status == FAILED and predictor.model is None
    assert "'What is MLflow?'" in predictor.failure
    assert model.closed


@pytest.mark.parametrize(
    "error",
    [
        OSError("no such file\nand a second line"),
        MlflowException("no such file\nand a second line"),
        RuntimeError("no such file\nand a second line"),
        AttributeError("no such file\nand a second line"),  # a model's own code may raise anything
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(error):
    def broken(uri):
        raise error

    predictor = Predictor(broken, "uri", 1)
    asyncio.run(predictor.start())
    assert (predictor.status, predictor.failure) == (FAILED, "no such file")


def test_nothing_is_answered_before_the_model_is_loaded():
    with pytest.raises(NotReady, match="loading"), Predictor(lambda uri: None, "uri", 1).accepted():
        pass


def test_an_engine_that_is_down_turns_ready_off_and_on_again():
    model = StandIn({})
    predictor = predictor_of(model)
    assert predictor.status == READY
    model.healthy = False
    assert predictor.status == LOADING
    model.healthy = True
    assert predictor.status == READY


def test_the_collector_of_cycles_leaves_a_loaded_model_alone_until_it_is_replaced():
    made: list[weakref.ref] = []

    def load(uri: str) -> LoadedModel:
        model = StandIn({})
        model.itself = model  # a cycle, as models have
        made.append(weakref.ref(model))
        return loaded(model, uri)

    predictor = Predictor(load, "v1", 8)
    asyncio.run(predictor.start())
    assert gc.get_freeze_count() > 10_000
    for version in ("v2", "v3", "v4"):
        asyncio.run(predictor.reload(version))
        gc.collect()
    wait_until(lambda: not gc.collect() and made[0]() is None)
    assert predictor.previous.answerer is made[2]() and predictor.model.answerer is made[3]()


# --- places ---


def test_no_more_than_the_limit_are_accepted_and_a_place_comes_back():
    predictor = predictor_of(StandIn({}), queue_limit=2)
    with predictor.accepted(), predictor.accepted():
        with pytest.raises(Overloaded), predictor.accepted():
            pass
    with predictor.accepted():
        pass


def test_a_question_that_fails_gives_its_place_back():
    predictor = predictor_of(StandIn({}), queue_limit=1)
    for _ in range(3):
        with pytest.raises(KeyError), predictor.accepted():
            raise KeyError
    with predictor.accepted():
        pass


def test_a_stopping_server_takes_nothing_new_and_leaves_what_runs_alone():
    model = StandIn({})
    predictor = predictor_of(model)
    with predictor.accepted() as running:
        predictor.stop()
        with pytest.raises(NotReady, match="stopping"), predictor.accepted():
            pass
        assert running.answerer is model and not model.closed
    assert predictor.status == STOPPING


def test_closing_ends_both_models():
    old, new = StandIn({}), StandIn({})
    predictor = shelf(v1=old, v2=new)
    asyncio.run(predictor.reload("v2"))
    predictor.close()
    assert old.closed and new.closed


# --- another version ---


def test_a_reload_answers_from_the_next_question_on():
    old, new = StandIn({}), StandIn(SAME, GOLDEN)
    predictor = shelf(v1=old, v2=new)
    with predictor.accepted() as running:
        asyncio.run(predictor.reload("v2"))
        assert running.answerer is old and not old.closed
        with predictor.accepted() as later:
            assert later.answerer is new
    assert not old.closed  # kept for a rollback


def test_without_an_address_the_first_one_is_looked_up_anew():
    asked = []
    predictor = Predictor(lambda uri: asked.append(uri) or loaded(StandIn({})), "models:/m@champion", 8)
    asyncio.run(predictor.start())
    asyncio.run(predictor.reload())
    assert asked == ["models:/m@champion"] * 2


@pytest.mark.parametrize("bad", [StandIn(OTHER, GOLDEN), None])
def test_a_version_that_fails_its_check_changes_nothing(bad):
    old = StandIn({})
    predictor = shelf(v1=old, **({"v2": bad} if bad else {}))
    with pytest.raises(Conflict, match="The version cannot be served"):
        asyncio.run(predictor.reload("v2"))
    assert predictor.model.answerer is old and not old.closed and predictor.status == READY
    assert predictor.previous is None
    assert bad is None or bad.closed


def test_a_second_reload_at_once_is_refused_and_the_first_one_goes_on():
    go_on, new = threading.Event(), StandIn({})

    def load(uri):
        if uri == "v2":
            go_on.wait(10)
        return loaded(new if uri == "v2" else StandIn({}), uri)

    async def scenario():
        predictor = Predictor(load, "v1", 8)
        await predictor.start()
        first = asyncio.create_task(predictor.reload("v2"))
        await asyncio.sleep(0.01)
        with pytest.raises(Conflict, match="under way"):
            await predictor.reload("v3")
        go_on.set()
        await first
        return predictor

    assert asyncio.run(scenario()).model.answerer is new


def test_rollback_changes_places_and_back_again():
    old, new = StandIn({}), StandIn({})
    predictor = shelf(v1=old, v2=new)
    with pytest.raises(Conflict, match="no version to go back to"):
        predictor.rollback()
    asyncio.run(predictor.reload("v2"))
    assert predictor.rollback().answerer is old
    assert predictor.rollback().answerer is new
    assert not (old.closed or new.closed)


def closed(model: StandIn) -> bool:
    """Soon: an engine ends on a thread."""
    deadline = time.monotonic() + 5
    while not model.closed and time.monotonic() < deadline:
        time.sleep(0.005)
    return model.closed


def test_two_reloads_later_a_version_is_closed():
    first, second, third = StandIn({}), StandIn({}), StandIn({})
    predictor = shelf(v1=first, v2=second, v3=third)
    asyncio.run(predictor.reload("v2"))
    assert not first.closed
    asyncio.run(predictor.reload("v3"))
    assert closed(first) and not (second.closed or third.closed)


def test_a_version_with_questions_under_way_is_closed_after_the_last_one():
    first = StandIn({})
    predictor = shelf(v1=first, v2=StandIn({}), v3=StandIn({}))
    with predictor.accepted():
        with predictor.accepted() as running:
            assert running.answerer is first
            for version in ("v2", "v3"):
                asyncio.run(predictor.reload(version))
        with predictor.accepted() as running:  # one of the third version does not keep the first one alive
            assert running.answerer is not first
        time.sleep(0.05)
        assert not first.closed
    assert closed(first)


def test_the_end_of_the_server_closes_a_version_that_still_answers():
    first = StandIn({})
    predictor = shelf(v1=first, v2=StandIn({}), v3=StandIn({}))
    with predictor.accepted():
        for version in ("v2", "v3"):
            asyncio.run(predictor.reload(version))
        predictor.close()
    assert first.closed


def test_questions_to_every_version_count_for_the_limit():
    predictor = shelf(v1=StandIn({}), v2=StandIn({}))
    predictor._most = 2
    with predictor.accepted():
        asyncio.run(predictor.reload("v2"))
        with predictor.accepted(), pytest.raises(Overloaded), predictor.accepted():
            pass


def test_a_good_reload_makes_up_for_a_first_load_that_failed():
    shelf_of = {"v2": StandIn({})}
    predictor = Predictor(lambda uri: loaded(shelf_of[uri], uri), "v1", 8)
    asyncio.run(predictor.start())
    assert predictor.status == FAILED and predictor.failure
    asyncio.run(predictor.reload("v2"))
    assert (predictor.status, predictor.failure) == (READY, "")


def held_load(go_on: threading.Event, **models: StandIn) -> Predictor:
    """v1 is loaded once it is let go, the others at once."""

    def load(uri):
        if uri == "v1":
            go_on.wait(10)
        return loaded(models[uri], uri)

    return Predictor(load, "v1", 8)


@pytest.mark.parametrize("waits", [False, True])
def test_a_reload_during_the_first_load_is_refused_or_comes_after_it(waits):
    go_on, second = threading.Event(), StandIn({})
    predictor = held_load(go_on, v1=StandIn({}), v2=second)

    async def scenario():
        starting = asyncio.create_task(predictor.start())
        await asyncio.sleep(0.01)
        reloading = asyncio.create_task(predictor.reload("v2", waits=waits))
        await asyncio.sleep(0.01)
        go_on.set()
        await starting
        await reloading

    if waits:
        asyncio.run(scenario())
        assert predictor.model.answerer is second
    else:
        with pytest.raises(Conflict, match="under way"):
            asyncio.run(scenario())


def test_what_was_loaded_while_the_server_stopped_is_closed():
    fresh = StandIn({})
    predictor = shelf(v1=StandIn({}), v2=fresh)
    predictor.stop()
    with pytest.raises(NotReady, match="stopping"):
        asyncio.run(predictor.reload("v2"))
    assert fresh.closed and predictor.previous is None


@pytest.mark.parametrize(("version", "said"), [("7", "now answering: m version 7"), (None, "now answering: m")])
def test_the_log_names_a_version_only_where_there_is_one(version, said, caplog):
    caplog.set_level("INFO")
    asyncio.run(Predictor(lambda uri: loaded(StandIn({}), version), "uri", 1).start())
    assert said in caplog.messages
