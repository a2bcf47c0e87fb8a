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

from genai_server.answering import predictor as predictor_module
from genai_server.answering.predictor import FAILED, LOADING, READY, STOPPING, LoadedModel, Predictor
from genai_server.errors import Conflict, EngineDown, NotReady, Overloaded
from genai_server.model_info import ModelInfo

GOLDEN = [{"question": "What is MLflow?", "token_ids": [1, 2, 3], "max_new_tokens": 8}]
SAME, OTHER = {"token_ids": [1, 2, 3]}, {"token_ids": [1, 2, 4]}


def loaded(model: StandIn, version: str = "1") -> LoadedModel:
    return LoadedModel(model, ModelInfo(model="m", model_version=version, model_uri=f"models:/m/{version}"))


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


def test_the_collector_of_cycles_leaves_the_first_model_alone_and_takes_replaced_ones():
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
    wait_until(lambda: gc.collect() >= 0 and made[2]() is None)
    assert made[1]() is None and predictor.model.answerer is made[3]()
    gc.unfreeze()


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


def test_closing_ends_the_model():
    model = StandIn({})
    predictor_of(model).close()
    assert model.closed


# --- another version ---


def test_a_reload_answers_from_the_next_question_on():
    old, new = StandIn({}), StandIn(SAME, GOLDEN)
    predictor = shelf(v1=old, v2=new)
    with predictor.accepted() as running:
        asyncio.run(predictor.reload("v2"))
        assert running.answerer is old and not old.closed
        with predictor.accepted() as later:
            assert later.answerer is new
    assert closed(old) and predictor.previous == "models:/m/v1"


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
    assert predictor.previous == ""
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


def test_rollback_loads_and_checks_the_version_before_and_they_change_places():
    made: list[str] = []
    predictor = registry(made)

    async def scenario():
        with pytest.raises(Conflict, match="no version to go back to"):
            await predictor.rollback()
        await predictor.reload("models:/m/2")
        first = (await predictor.rollback()).info.model_version, predictor.previous
        second = (await predictor.rollback()).info.model_version, predictor.previous
        return first, second

    assert asyncio.run(scenario()) == (("1", "models:/m/2"), ("2", "models:/m/1"))
    assert made == ["models:/m/1", "models:/m/2", "models:/m/1", "models:/m/2"]


def test_a_rollback_to_a_version_that_answers_wrongly_is_refused():
    models = {"1": StandIn(SAME, GOLDEN), "2": StandIn({})}
    predictor = Predictor(lambda uri: loaded(models[uri[-1]], uri[-1]), "models:/m/1", 8)

    async def scenario():
        await predictor.start()
        await predictor.reload("models:/m/2")
        models["1"].said = StandIn(OTHER).said
        with pytest.raises(Conflict, match="golden"):
            await predictor.rollback()

    asyncio.run(scenario())
    assert predictor.model.info.model_version == "2" and predictor.previous == "models:/m/1"


def registry(made: list[str], alias: str = "2") -> Predictor:
    """Started with version 1; the alias names another one. `made` says what was loaded."""

    def load(uri):
        made.append(uri)
        return loaded(StandIn({}), resolve(uri)[-1])

    def resolve(uri):
        return f"models:/m/{alias}" if "@" in uri else uri

    predictor = Predictor(load, "models:/m/1", 8, resolve)
    asyncio.run(predictor.start())
    return predictor


def test_a_version_that_answers_already_is_not_loaded_again_and_the_one_before_stays():
    made: list[str] = []
    predictor = registry(made)
    for uri in ("models:/m@champion", "models:/m@champion", "models:/m/2"):
        assert asyncio.run(predictor.reload(uri)).info.model_version == "2"
    assert made == ["models:/m/1", "models:/m@champion"]
    assert predictor.previous == "models:/m/1"


def test_a_version_whose_engine_is_down_is_loaded_again():
    made: list[str] = []
    predictor = registry(made)
    predictor.model.answerer.healthy = False
    asyncio.run(predictor.reload("models:/m/1"))
    assert made == ["models:/m/1"] * 2


def test_a_model_from_a_folder_is_loaded_again_since_its_files_may_be_others():
    made: list[str] = []

    def load(uri):
        made.append(uri)
        return LoadedModel(StandIn({}), ModelInfo(model="folder", model_version=None, model_uri=uri))

    predictor = Predictor(load, "/some/folder", 8)
    asyncio.run(predictor.start())
    asyncio.run(predictor.reload())
    assert made == ["/some/folder"] * 2


def test_an_engine_that_has_failed_for_good_is_a_failure():
    model = StandIn({})
    predictor = predictor_of(model)
    model.healthy, model.broken = False, "The engine failed 3 times in a row."
    assert (predictor.status, predictor.engine_failure) == (FAILED, model.broken)
    with pytest.raises(EngineDown, match="3 times in a row"), predictor.accepted():
        pass


def closed(model: StandIn) -> bool:
    """Soon: an engine ends on a thread."""
    deadline = time.monotonic() + 5
    while not model.closed and time.monotonic() < deadline:
        time.sleep(0.005)
    return model.closed


def test_the_version_before_is_closed_and_no_more_than_two_are_loaded():
    first, second, third = StandIn({}), StandIn({}), StandIn({})
    predictor = shelf(v1=first, v2=second, v3=third)
    asyncio.run(predictor.reload("v2"))
    assert closed(first)
    asyncio.run(predictor.reload("v3"))
    assert closed(second) and not third.closed


def test_a_third_version_waits_for_the_last_question_to_the_first_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(predictor_module, "RETIRED_TIMEOUT_S", 0.3)
    first = StandIn({})
    predictor = shelf(v1=first, v2=StandIn({}), v3=StandIn({}))

    async def scenario():
        with predictor.accepted():
            await predictor.reload("v2")
            loading = asyncio.create_task(predictor.reload("v3"))
            await asyncio.sleep(0.1)
            assert not first.closed and not loading.done()
            await loading
            assert closed(first)

    asyncio.run(scenario())


def test_a_version_with_questions_under_way_is_closed_after_the_last_one():
    first = StandIn({})
    predictor = shelf(v1=first, v2=StandIn({}))
    with predictor.accepted():
        with predictor.accepted() as running:
            assert running.answerer is first
            asyncio.run(predictor.reload("v2"))
        with predictor.accepted() as running:  # one of the second version does not keep the first one alive
            assert running.answerer is not first
        time.sleep(0.05)
        assert not first.closed
    assert closed(first)


def test_the_end_of_the_server_closes_a_version_that_still_answers():
    first = StandIn({})
    predictor = shelf(v1=first, v2=StandIn({}))
    with predictor.accepted():
        asyncio.run(predictor.reload("v2"))
        predictor.close()
    assert first.closed


def test_questions_to_every_version_count_for_the_limit():
    predictor = shelf(v1=StandIn({}), v2=StandIn({}))
    predictor.slots.limit = 2
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
    assert fresh.closed and predictor.previous == ""


@pytest.mark.parametrize(("version", "said"), [("7", "now answering: m version 7"), (None, "now answering: m")])
def test_the_log_names_a_version_only_where_there_is_one(version, said, caplog):
    caplog.set_level("INFO")
    asyncio.run(Predictor(lambda uri: loaded(StandIn({}), version), "uri", 1).start())
    assert said in caplog.messages
