"""kill -9 before every single change that a promotion or a rollback makes in the registry, then the same command again.

At no moment does `champion` or `production` point at a version that should not serve; afterwards all aliases are
as after a command that nobody disturbed.
"""

from __future__ import annotations

import functools
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import forked
import mlflow
import mlflow_server
import pytest
import registry_calls
from conftest import free_port

pytestmark = pytest.mark.slow


NAME = "qa"
MOST_CHANGES = 60  # of one command; it ends far below
BEFORE = {"live": 2, "previous": 1, "candidate": 3}
PROMOTED, ROLLED_BACK = {**BEFORE, "live": 3, "previous": 2}, {**BEFORE, "live": 1, "previous": 2}


@dataclass(frozen=True)
class Command:
    """One way to move the aliases: what is run, where, and what is left."""

    program: str
    after: Mapping[str, int]
    alias: str = "production"


PROMPTS = """
from genai_lifecycle.prompts.promotion import Gate
from genai_lifecycle.evaluation.gate import Policy
from genai_lifecycle.stages.prompts import PromptsSettings, run_prompts
run_prompts(PromptsSettings({settings}), lambda: Gate(Policy(), lambda version: None))
"""
MODEL_PROMOTE = """
from genai_lifecycle.store import model_registry
model_registry.promote(model_registry.candidate("qa"))
"""
MODEL_ROLLBACK = """
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.stages.rollback import RollbackSettings, roll_back
roll_back(E2EConfig(registered_model_name="qa"), RollbackSettings())
"""
SERVER = """
import mlflow
from genai_server.prompts.registry import PromptRegistry
PromptRegistry(mlflow.get_tracking_uri()).{call}
"""
COMMANDS = {
    "model promote": Command(MODEL_PROMOTE, PROMOTED, "champion"),
    "model rollback": Command(MODEL_ROLLBACK, ROLLED_BACK, "champion"),
    "prompt promote": Command(
        PROMPTS.format(settings="'alias', 'qa', alias='production', version=3, override_gate=True"), PROMOTED
    ),
    "prompt rollback": Command(PROMPTS.format(settings="'rollback', 'qa'"), ROLLED_BACK),
    "server prompt move": Command(SERVER.format(call="point('qa', 'production', 3, force=True)"), PROMOTED),
    "server prompt rollback": Command(SERVER.format(call="roll_back('qa')"), ROLLED_BACK),
}


@dataclass(frozen=True)
class Registry:
    """A real registry with one model or prompt of three versions."""

    uri: str
    alias: str

    def make(self) -> None:
        for _ in range(3):
            if self.alias == "production":
                self._client.register_prompt(NAME, "{{question}}")
            else:
                if not self._client.search_registered_models():
                    self._client.create_registered_model(NAME)
                self._client.create_model_version(NAME, "/nowhere/model")
        self.reset()

    def reset(self) -> None:
        for alias, version in BEFORE.items():
            self._set_alias(self._real(alias), version)
        for key in self.tags():
            self._delete_tag(key)

    def aliases(self) -> dict[str, int]:
        return {self._usual(alias): int(version) for alias, version in self._found().aliases.items()}

    def tags(self) -> dict[str, str]:
        return {key: value for key, value in self._found().tags.items() if key.startswith("lifecycle.")}

    def former(self) -> str | None:
        """What stands beside the version that is live now."""
        number = str(self.aliases()["live"])
        versions = self._client.search_model_versions(self._filter(f"name = '{NAME}'"))
        return next(found.tags for found in versions if str(found.version) == number).get(f"{self.alias}.former")

    def _filter(self, what: str = "") -> str:
        prompt = "tags.`mlflow.prompt.is_prompt` = 'true'" if self.alias == "production" else ""
        return " AND ".join(filter(None, [what, prompt]))

    def _found(self):
        return self._client.search_registered_models(filter_string=self._filter())[0]

    def _set_alias(self, alias: str, version: int) -> None:
        if self.alias == "production":
            self._client.set_prompt_alias(NAME, alias, version)
        else:
            self._client.set_registered_model_alias(NAME, alias, str(version))

    def _delete_tag(self, key: str) -> None:
        if self.alias == "production":
            self._client.delete_prompt_tag(NAME, key)
        else:
            self._client.delete_registered_model_tag(NAME, key)

    def _real(self, alias: str) -> str:
        return self.alias if alias == "live" else alias

    def _usual(self, alias: str) -> str:
        return "live" if alias == self.alias else alias

    @property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri, self.uri)


def run_killed(command: Command, uri: str, number: int) -> bool:
    """In a process of its own; False where it came to its end before change `number`."""
    start = "import sys, mlflow\nmlflow.set_tracking_uri(sys.argv[1])\nmlflow.set_registry_uri(sys.argv[1])\n"
    prepare = functools.partial(registry_calls.kill_before, number)
    done = forked.run([sys.executable, "-c", start + command.program, uri], prepare=prepare)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def run(command: Command, uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    exec(command.program, {})


def kill_before_every_change(command: Command, registries: Iterator[Registry]) -> None:
    for number, registry in zip(range(1, MOST_CHANGES), registries, strict=False):
        was_killed = run_killed(command, registry.uri, number)
        live = registry.aliases()["live"]
        assert live in (BEFORE["live"], command.after["live"]), f"killed before change {number}"
        if was_killed:
            run(command, registry.uri)
        assert registry.aliases() == command.after, f"killed before change {number}"
        assert registry.tags() == {}, f"killed before change {number}"
        assert registry.former() == str(BEFORE["live"]), f"killed before change {number}"
        if not was_killed:
            assert number > 2  # it did make some
            return
    pytest.fail("it never came to its end")


@pytest.fixture(scope="module")
def databases(tmp_path_factory) -> dict[str, Path]:
    """One with a model and one with a prompt; to be copied."""
    found = {}
    for alias in ("champion", "production"):
        found[alias] = tmp_path_factory.mktemp("registry") / "mlflow.db"
        Registry(f"sqlite:///{found[alias]}", alias).make()
    return found


def copies(database: Path, alias: str, folder: Path) -> Iterator[Registry]:
    for number in range(MOST_CHANGES):
        copy = folder / f"{number}.db"
        shutil.copy(database, copy)
        yield Registry(f"sqlite:///{copy}", alias)


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_before_any_change_the_same_command_does_the_rest(databases, tmp_path, name):
    command = COMMANDS[name]
    kill_before_every_change(command, copies(databases[command.alias], command.alias, tmp_path))


@pytest.mark.parametrize("name", ["model rollback", "server prompt rollback"])
def test_through_an_mlflow_server_too(served, name):
    command = COMMANDS[name]
    kill_before_every_change(command, reset_each_time(Registry(served[command.alias], command.alias)))


def reset_each_time(registry: Registry) -> Iterator[Registry]:
    while True:
        registry.reset()
        yield registry


@pytest.fixture(scope="module")
def served(databases, tmp_path_factory) -> Iterator[dict[str, str]]:
    """An MLflow server; what is a model in one test and a prompt in the other cannot be in one registry."""
    base = tmp_path_factory.mktemp("served")
    with running(databases["champion"], base / "a") as models, running(databases["production"], base / "b") as prompts:
        yield {"champion": models, "production": prompts}


def running(database: Path, base: Path):
    base.mkdir()
    shutil.copy(database, base / "mlflow.db")
    flags = ["--host", "127.0.0.1", "--port", str(free_port()), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}"]  # fmt: skip
    return mlflow_server.running(flags, base / "log")
