"""The whole life with its metadata in a real PostgreSQL; and every way in which one can be missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import postgresql_server
import pytest
from cli_process import arguments_for, run_cli
from conftest import free_port, make_cases
from postgresql_server import PostgreSQL

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, TrackingUnavailable
from genai_lifecycle.stages.ui import ui_command
from genai_lifecycle.store import postgresql
from genai_lifecycle.store import tracking_store as store_module
from genai_lifecycle.store.store_lock import only_run_on
from genai_lifecycle.store.tracking_store import open_store

NAME = "model-in-postgresql"
pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql_server.running() as found:
        yield found


class Life:
    """Runs modes on one database; the address with its password comes from the environment, as it should."""

    def __init__(self, base: Path, server: PostgreSQL, model: Path):
        server.run("CREATE DATABASE life")
        self.base, self.server, self.uri, self.artifacts = base, server, server.uri("life"), base / "artifacts"
        self.model, self.cases = model, make_cases(base / "cases.jsonl")
        self.said = ""

    def run(self, mode: str, *more: str) -> subprocess.CompletedProcess[str]:
        flags = [
            "--data-dir", str(self.artifacts), "--registered-model-name", NAME,
            "--model", str(self.model), "--cases", str(self.cases), "--output-dir", str(self.base / "bundle"),
            "--max-new-tokens", "8",
        ]  # fmt: skip
        done = run_cli(arguments_for(mode, *more, *flags), MLFLOW_TRACKING_URI=self.uri)
        self.said += done.stdout + done.stderr
        return done

    def findings(self) -> dict[str, str]:
        done = self.run("doctor", "--json")
        return {item["what"]: item["state"] for item in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def life(server, tiny_gpt2, tmp_path_factory) -> Life:
    """After experiment and deploy."""
    made = Life(tmp_path_factory.mktemp("postgresql"), server, tiny_gpt2)
    for mode in ("experiment", "deploy"):
        done = made.run(mode)
        assert done.returncode == 0, done.stderr
    return made


def versions(life: Life) -> list[tuple]:
    """MLflow keeps the row of a deleted version, with this word in the place of its stage."""
    here = f"name = '{NAME}' AND current_stage <> 'Deleted_Internal'"
    return life.server.run(f"SELECT version FROM model_versions WHERE {here} ORDER BY version", "life")


def test_experiment_and_deploy_leave_runs_traces_prompts_and_a_version(life):
    assert versions(life) == [(1,)]
    assert life.server.run("SELECT count(*) FROM trace_info", "life") == [(12,)]
    assert life.server.run("SELECT count(*) FROM runs WHERE status = 'FINISHED'", "life") == [(6,)]
    aliases = life.server.run("SELECT alias FROM registered_model_aliases ORDER BY alias", "life")
    assert aliases == [("candidate",), ("production",)]


def test_the_other_modes_work_on_it_too(life):
    tested = life.run("test", "--override-gate")  # random weights say nothing
    assert tested.returncode in (0, 6), tested.stderr  # a tiny model may answer too badly; that is no matter here
    plan = life.run("serve")
    assert plan.returncode == 0 and f"models:/{NAME}@" in plan.stdout, plan.stderr
    shown = life.run("server-config")
    assert shown.returncode == 0 and "--backend-store-uri 'postgresql://lifecycle:***@" in shown.stdout, shown.stderr
    exported = life.run("export", "--model-uri", f"models:/{NAME}/1")
    assert exported.returncode == 0, exported.stderr
    assert (life.base / "bundle" / "manifest.json").is_file()


def test_the_doctor_finds_all_of_it_whole(life):
    found = life.findings()
    assert found["tracking store"] == found["artifact locations"] == found["runs"] == "ok"


def test_clean_removes_what_has_no_alias(life):
    assert life.run("deploy").returncode == 0
    life.server.run(f"DELETE FROM registered_model_aliases WHERE name = '{NAME}' AND version = 1", "life")
    shown = life.run("clean", "--older-than", "0", "--keep", "0")
    assert f"{NAME} 1" in shown.stdout and versions(life) == [(1,), (2,)], shown.stderr
    done = life.run("clean", "--older-than", "0", "--keep", "0", "--apply")
    assert done.returncode == 0 and versions(life) == [(2,)], done.stderr
    assert len(list(life.artifacts.glob("*/models/m-*"))) == 1


def test_relocate_rewrites_the_addresses(life):
    moved = life.base / "moved"
    old, life.artifacts = life.artifacts, moved
    shutil.move(old, moved)
    assert life.findings()["experiment langchain-e2e"] == "problem"
    done = life.run("relocate", "--from", str(old), "--to", str(moved), "--apply")
    assert done.returncode == 0 and "addresses were rewritten" in done.stdout, done.stderr
    assert life.findings()["artifact locations"] == "ok"
    assert life.run("serve").returncode == 0


def test_one_run_at_a_time_whatever_its_artifact_root(life, tmp_path):
    with only_run_on(life.uri):
        refused = life.run("deploy", "--experiment-name", "another", "--data-dir", str(tmp_path / "artifacts"))
        assert refused.returncode == 12 and f"Another run (process {os.getpid()} on " in refused.stderr
        assert life.run("serve").returncode == 0  # which only reads


def test_the_password_is_nowhere(life):
    """Neither in what was printed, nor in a file, nor in the database, nor in the words of a process."""
    secrets = (life.server.password, life.uri)
    assert not any(secret in life.said for secret in secrets)
    files = [path for place in (life.artifacts, life.base / "bundle") for path in place.rglob("*") if path.is_file()]
    assert files and not [path for path in files if any(s.encode() in path.read_bytes() for s in secrets)]
    dumped = subprocess.run(
        [shutil.which("pg_dump") or "pg_dump", life.uri], capture_output=True, text=True, check=False
    )
    if dumped.returncode == 0:
        assert not any(secret in dumped.stdout for secret in secrets)
    assert life.uri not in " ".join(ui_command(E2EConfig(backend_store_uri=life.uri), 5050))


def test_as_the_backend_store_without_a_server_and_with_the_password_in_the_environment(
    server, make_config, monkeypatch
):
    server.run("CREATE DATABASE direct")
    monkeypatch.setenv("PGPASSWORD", server.password)
    monkeypatch.setattr(store_module, "LOCAL_SERVER_PORT", free_port())
    uri = f"postgresql://{server.user}@127.0.0.1:{server.port}/direct"
    store = open_store(make_config(backend_store_uri=uri))
    assert store.kind == "direct" and store.description.startswith(uri)


# --- what can be missing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "database", "sentence"),
    [
        ({"password": "wrong-secret"}, "postgres", "does not accept the user or the password"),
        ({"user": "nobody-here"}, "postgres", "does not accept the user or the password"),
        ({}, "no_such_database", "has no such database"),
        ({"port": "1"}, "postgres", "does not answer"),
    ],
)
def test_each_failure_has_a_sentence(server, make_config, changed, database, sentence):
    uri = server.uri(database, **changed)
    started = time.monotonic()
    with pytest.raises(TrackingUnavailable, match=sentence) as raised:
        open_store(make_config(tracking_uri=uri))
    assert time.monotonic() - started < 10 and raised.value.hint
    assert changed.get("password", server.password) not in str(raised.value) and uri not in str(raised.value)


def test_a_name_that_is_not_resolved(make_config):
    with pytest.raises(TrackingUnavailable, match="its name is not resolved"):
        open_store(make_config(tracking_uri="postgresql://me:secret@no-such-host.invalid/db"))


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    import socket

    monkeypatch.setattr(postgresql, "PATIENCE_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingUnavailable, match="did not answer"):
        postgresql.check(f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/db")


def test_a_user_who_may_make_no_tables(server, make_config):
    server.run("CREATE DATABASE closed")
    server.run("CREATE USER reader PASSWORD 'reads'")
    server.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", "closed")
    with pytest.raises(TrackingUnavailable, match="may not make tables"):
        open_store(make_config(tracking_uri=server.uri("closed", user="reader", password="reads")))


def test_the_command_ends_with_its_own_code_and_without_a_traceback(server, tmp_path):
    uri = server.uri("no_such_database")
    done = run_cli(["--mode", "deploy", "--data-dir", str(tmp_path / "a")], MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 3 and "has no such database" in done.stderr and "createdb" in done.stderr
    assert "Traceback" not in done.stderr and server.password not in done.stderr


# --- without a server -----------------------------------------------------------------------------


def test_a_driver_that_is_not_installed_is_named():
    with pytest.raises(ConfigError, match="'no_such_driver' is not installed"):
        postgresql.check("postgresql+no_such_driver://me:secret@host/db")


def test_an_address_that_cannot_be_read_is_not_repeated_with_its_password():
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        postgresql.check("postgresql://me:secret@host:port/db")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("field", ["tracking_uri", "backend_store_uri"])
def test_an_address_of_another_kind_is_not_repeated_with_its_password(field):
    for uri in ("postgres://me:secret@host/db", "me:secret@host/db", "mysql://host/db?password=secret"):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}") as raised:
            E2EConfig(**{field: uri})
        assert "secret" not in str(raised.value) and "postgresql://" in raised.value.hint


def test_a_place_that_the_tables_have_no_room_for():
    postgresql.require_short_enough("/" + "x" * 156)
    with pytest.raises(ConfigError, match="take 157"):
        postgresql.require_short_enough("/" + "x" * 157)
