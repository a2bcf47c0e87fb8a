"""The commands we tell people to type: the settings of this run, no secret, and no more than is needed."""

from __future__ import annotations

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.serving.commands import mode_command


def test_defaults_need_no_flags():
    assert mode_command(E2EConfig(), "ui").endswith("e2e_mlflow.py --mode ui")


def test_the_places_of_this_run_are_repeated():
    config = E2EConfig(data_dir="/some where", tracking_uri="http://127.0.0.1:5077", model="gpt2")
    command = mode_command(config, "serve", "--start")
    assert command.endswith("--mode serve --start --tracking-uri http://127.0.0.1:5077 --data-dir '/some where'")


def test_a_password_is_not_repeated():
    config = E2EConfig(backend_store_uri="postgresql://me:secret@host/db")
    assert "secret" not in mode_command(config, "ui")


def test_an_address_that_the_environment_has_is_left_to_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://me:secret@host/db")
    assert mode_command(E2EConfig.from_env({}), "ui").endswith("e2e_mlflow.py --mode ui")


def test_so_is_one_of_a_server_after_mlflow_has_changed_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow")
    config = E2EConfig.from_env({})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    assert mode_command(config, "ui").endswith("e2e_mlflow.py --mode ui")
    given = E2EConfig.from_env({"tracking_uri": "http://me:secret@mlflow"})
    assert mode_command(given, "ui").endswith("--mode ui --tracking-uri 'http://me:***@mlflow'")
