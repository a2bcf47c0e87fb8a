"""The lock of a store: kept as long as the run lives, given back at its end. Two routes are in tests/hostile."""

from __future__ import annotations

import time

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

from genai_lifecycle.errors import Busy, NotFound
from genai_lifecycle.store import store_lock
from genai_lifecycle.store.store_lock import only_run_on
from genai_server.registry.lease import claims


def leases(store) -> dict:
    client = mlflow.MlflowClient(store.uri, store.uri)
    return {key: claim for found in client.search_experiments() for key, claim in claims(found.tags).items()}


def wait_until(is_so) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_nothing_is_left_of_it_whatever_ended_the_run(store):
    for error in (None, ValueError, KeyboardInterrupt):
        try:
            with only_run_on(store.uri):
                assert len(leases(store)) == 1
                with pytest.raises(Busy, match="works on this store"), only_run_on(store.uri):
                    pass
                if error:
                    raise error
        except (ValueError, KeyboardInterrupt) as exc:
            assert isinstance(exc, error)
        assert leases(store) == {}


def test_it_is_renewed_while_the_run_lasts(store, monkeypatch):
    monkeypatch.setattr(store_lock, "RENEW_S", 0.05)
    with only_run_on(store.uri):
        (first,) = leases(store).values()
        wait_until(lambda: next(iter(leases(store).values())).until_ms > first.until_ms)


def test_a_run_that_lost_it_ends_and_says_why(store, monkeypatch):
    """As after hours of sleep, when a run on another machine has taken the store over."""
    monkeypatch.setattr(store_lock, "RENEW_S", 0.05)
    with pytest.raises(Busy, match="took over this store"), only_run_on(store.uri):
        client = mlflow.MlflowClient(store.uri, store.uri)
        (place,) = [found for found in client.search_experiments() if claims(found.tags)]
        client.delete_experiment_tag(place.experiment_id, *claims(place.tags))
        wait_until(lambda: False)


def test_an_experiment_in_the_trash_is_no_obstacle(store):
    client = mlflow.MlflowClient(store.uri, store.uri)
    client.delete_experiment("0")
    with only_run_on(store.uri):
        assert len(leases(store)) == 1
    client.delete_experiment(store.experiment_id)
    with pytest.raises(NotFound, match="in MLflow's trash"), only_run_on(store.uri):
        pass


def test_an_older_server_that_deletes_no_tags(store, monkeypatch):
    def no_such_route(*_):
        raise MlflowException("API request to endpoint failed with 404", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(mlflow.MlflowClient, "delete_experiment_tag", no_such_route)
    for _ in range(2):
        with only_run_on(store.uri), pytest.raises(Busy), only_run_on(store.uri):
            pass
