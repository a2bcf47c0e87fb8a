"""The serving commands, and the server run and watched; a stand-in takes the place of fastapi_server.py."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import stand_in_server
from stand_in_server import free_port, wait_until_gone

from genai_lifecycle.cli.text.life import of_plan
from genai_lifecycle.errors import NotFound, PortTaken
from genai_lifecycle.serving.processes import ServerFailed, ask, is_port_taken
from genai_lifecycle.stages import serve
from genai_lifecycle.stages.serve import ServeSettings, run_server, serve_plan


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """(config, store) with version 1 of a model as its candidate."""
    import mlflow

    from genai_lifecycle.config import E2EConfig
    from genai_lifecycle.store.tracking_store import open_store

    base = tmp_path_factory.mktemp("serve")
    uri = f"sqlite:///{base / 'db' / 'mlflow.db'}"
    config = E2EConfig(backend_store_uri=uri, tracking_uri=uri, data_dir=str(base / "artifacts"), log_dir=base / "logs")
    store = open_store(config)
    client = mlflow.MlflowClient()
    client.create_registered_model(config.registered_model_name)
    client.create_model_version(config.registered_model_name, str(base))
    client.set_registered_model_alias(config.registered_model_name, "candidate", "1")
    return config, store


@pytest.fixture
def ready_to_run(deployed, monkeypatch):
    """(config, store, settings with a free port) with the stand-in as the server."""
    monkeypatch.setattr(serve, "SERVER", Path(stand_in_server.__file__))
    monkeypatch.delenv("HOST", raising=False)
    return *deployed, ServeSettings(port=free_port())


class Screen:
    """What was told; `acts` are done one after the other, each when the server is ready again."""

    def __init__(self, port, *acts):
        self.url, self.acts, self.told, self.answers = f"http://127.0.0.1:{port}", list(acts), [], []

    def tell(self, line: str) -> None:
        self.told.append(line)
        if line.startswith("Ready"):
            self.answers.append(json.loads(ask(f"{self.url}/")[1]))
            self.acts.pop(0)(self)

    @property
    def pids(self) -> list[int]:
        return [answer["pid"] for answer in self.answers]


def ctrl_c(screen: Screen) -> None:
    raise KeyboardInterrupt


def sigterm(screen: Screen) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash(screen: Screen) -> None:
    ask(f"{screen.url}/crash")


def end(screen: Screen) -> None:
    ask(f"{screen.url}/end")


# --- the commands ---------------------------------------------------------------------------------


def test_nothing_to_serve_before_deploy(deployed):
    config, store = deployed
    with pytest.raises(NotFound, match="no candidate"):
        serve_plan(replace(config, registered_model_name="never-deployed"), store, ServeSettings())


def test_the_champion_is_served_the_candidate_before_there_is_one(deployed):
    import mlflow

    config, store = deployed
    assert serve_plan(config, store, ServeSettings()).model_uri == "models:/langchain-e2e-model@candidate"
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(config.registered_model_name, "champion", "1")
    try:
        assert serve_plan(config, store, ServeSettings()).model_uri == "models:/langchain-e2e-model@champion"
    finally:
        client.delete_registered_model_alias(config.registered_model_name, "champion")


def test_every_command_names_the_port(deployed):
    config, store = deployed
    assert all("8123" in command for _, command in serve_plan(config, store, ServeSettings(port=8123)).commands)


@pytest.mark.parametrize(("host", "url"), [("::1", "http://[::1]:8123"), ("[::1]", "http://[::1]:8123")])
def test_an_ipv6_address_is_printed_in_brackets(deployed, monkeypatch, host, url):
    monkeypatch.setenv("HOST", host)
    config, store = deployed
    plan = serve_plan(config, store, ServeSettings(port=8123))
    assert plan.url == url and f"curl {url}/ask" in str(plan.commands)


KEYS = ("API_KEYS", "API_KEYS_FILE", "ADMIN_KEYS", "ADMIN_KEYS_FILE", "ALLOW_OPEN")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "model.example"])
def test_a_host_that_others_reach_without_keys_is_hinted_at(deployed, monkeypatch, host):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOST", host)
    hint = serve_plan(*deployed, ServeSettings()).hint
    assert hint.startswith(f"HOST is {host}, ") and "API_KEYS" in hint and "ALLOW_OPEN" in hint
    assert hint in of_plan(serve_plan(*deployed, ServeSettings()))
    for name in KEYS:
        with monkeypatch.context() as one:
            one.setenv(name, "set")
            assert serve_plan(*deployed, ServeSettings()).hint == ""


def test_with_keys_the_command_to_ask_has_a_place_for_one(deployed, monkeypatch):
    assert "YOUR_KEY" not in str(serve_plan(*deployed, ServeSettings()).commands)
    monkeypatch.setenv("API_KEYS", "a-key-of-this-test")
    commands = dict(serve_plan(*deployed, ServeSettings()).commands)
    assert "/ask -H 'Authorization: Bearer YOUR_KEY'" in commands["ask it"]
    assert "a-key-of-this-test" not in str(commands) and "YOUR_KEY" not in commands["ask that one"]


@pytest.mark.parametrize("host", ["", "127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_at_home_there_is_no_hint(deployed, monkeypatch, host):
    monkeypatch.setenv("HOST", host)
    assert serve_plan(*deployed, ServeSettings()).hint == ""


def test_passwords_are_not_shown(deployed):
    config, store = deployed
    secret = replace(store, uri="postgresql://mlflow:s3cret@db.example/mlflow")
    assert "s3cret" not in str(serve_plan(config, secret, ServeSettings()))


# --- the server -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [ctrl_c, sigterm])
def test_the_server_runs_until_it_is_stopped(ready_to_run, stop):
    config, store, settings = ready_to_run
    screen = Screen(settings.port, stop)
    run_server(config, store, settings, screen.tell)
    assert f"{screen.url}/docs" in screen.told[0] and f"curl {screen.url}/ask" in screen.told[0]
    assert screen.told[1:] == ["The server has ended."]
    assert screen.answers[0] | {"pid": 0} == {
        "pid": 0,
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_REGISTRY_URI": store.uri,
        "MLFLOW_MODEL_URI": "models:/langchain-e2e-model@candidate",
        "HOST": "127.0.0.1",
        "PORT": str(settings.port),
    }
    wait_until_gone(screen.pids)
    assert not is_port_taken("127.0.0.1", settings.port)


def test_a_crashed_server_is_started_again(ready_to_run):
    config, store, settings = ready_to_run
    screen = Screen(settings.port, crash, sigterm)
    run_server(config, store, settings, screen.tell)
    assert len(set(screen.pids)) == 2
    assert "exit code 3, crash 1 of 5" in screen.told[1]
    wait_until_gone(screen.pids)


def test_a_server_that_somebody_else_ended_well_is_not_started_again(ready_to_run):
    config, store, settings = ready_to_run
    screen = Screen(settings.port, end)
    run_server(config, store, settings, screen.tell)
    assert screen.told[-1] == "The server was ended from outside, in good order."


def test_a_server_that_listens_everywhere_is_asked_here(ready_to_run, monkeypatch):
    monkeypatch.setenv("HOST", "0.0.0.0")
    config, store, settings = ready_to_run
    screen = Screen(settings.port, ctrl_c)
    run_server(config, store, settings, screen.tell)
    assert screen.answers[0]["HOST"] == "0.0.0.0"


def test_a_server_on_an_ipv6_address_is_asked_there(ready_to_run, monkeypatch):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    monkeypatch.setenv("HOST", "::1")
    config, store, settings = ready_to_run
    screen = Screen(settings.port, ctrl_c)
    screen.url = f"http://[::1]:{settings.port}"
    run_server(config, store, settings, screen.tell)
    assert f"{screen.url}/docs" in screen.told[0] and screen.answers[0]["HOST"] == "::1"
    wait_until_gone(screen.pids)


def test_a_wrong_setting_is_told_with_the_servers_own_words(ready_to_run, monkeypatch):
    monkeypatch.setenv("STAND_IN", "broken")
    config, store, settings = ready_to_run
    with pytest.raises(ServerFailed, match="MLFLOW_MODEL_URI names no model"):
        run_server(config, store, settings, print)


def test_a_taken_port_is_told_before_anything_starts(ready_to_run):
    config, store, settings = ready_to_run
    with socket.create_server(("127.0.0.1", settings.port)):
        with pytest.raises(PortTaken, match=str(settings.port)) as caught:
            run_server(config, store, settings, print)
    assert "--port" in caught.value.hint
