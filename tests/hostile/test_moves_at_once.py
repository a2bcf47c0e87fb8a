"""Promotions and rollbacks at the same time: each one counts whole or is refused, and `previous` is never lost."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import forked
import mlflow
import pytest

from genai_server.registry import alias_moves, lease
from genai_server.registry.alias_moves import MoveRefused

pytestmark = pytest.mark.slow


LIVE, PREVIOUS = "production", "previous"

# --- every order of calls, with a registry in memory ----------------------------------------------


class Memory:
    """What `alias_moves` needs of a registry; each call waits until the test says that it may be made."""

    def __init__(self):
        self.found, self.own_tags = {LIVE: 2, PREVIOUS: 1}, {}
        self.history = [2]  # who was live
        self._turns: dict[str, threading.Semaphore] = {}
        self._done = threading.Semaphore(0)
        self._writers: dict[str, str] = {}  # key of a tag -> who wrote it

    def tags(self) -> Mapping[str, str]:
        return self._in_turn(lambda: dict(self.own_tags))

    def aliases(self) -> Mapping[str, int]:
        return self._in_turn(lambda: dict(self.found))

    def set_tag(self, key: str, value: str) -> None:
        self._writers[key] = threading.current_thread().name
        self._in_turn(lambda: self.own_tags.__setitem__(key, value))

    def delete_tag(self, key: str) -> None:
        self._in_turn(lambda: self.own_tags.pop(key, None))

    def has_version(self, version: int) -> bool:
        return True

    def set_alias(self, alias: str, version: int) -> None:
        self._in_turn(lambda: self._set(alias, version))

    def delete_alias(self, alias: str) -> None:
        self._in_turn(lambda: self.found.pop(alias, None))

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        self._in_turn(lambda: None)

    def _set(self, alias: str, version: int) -> None:
        self.found[alias] = version
        if alias == LIVE:
            self.history.append(version)

    def _in_turn(self, call: Callable[[], object]):
        self._turns[threading.current_thread().name].acquire()
        try:
            return call()
        finally:
            self._done.release()

    def run(
        self, moves: Mapping[str, Callable[[], object]], chance: random.Random, killed: tuple[str, int] = ("", 0)
    ) -> dict[str, object]:
        """Make the moves at the same time, their calls in an order that `chance` draws; how each one ended.

        Each has made its first call, which looks at the aliases, before any makes its second.

        Args:
            killed: which of them is killed, and after how many calls.
        """
        outcomes: dict[str, object] = {}
        self._turns |= {name: threading.Semaphore(0) for name in moves}
        for name in moves:
            threading.Thread(target=self._make, args=(name, moves[name], outcomes), name=name, daemon=True).start()
        calls, first = Counter(), list(moves)
        while waiting := first or [name for name in moves if name not in outcomes]:
            name = chance.choice(waiting)
            first = [other for other in first if other != name]
            if (name, calls[name]) == killed:
                outcomes[name] = "killed"
                self._bury(name)
                continue
            calls[name] += 1
            self._turns[name].release()
            self._done.acquire()
        return outcomes

    def _make(self, name: str, move: Callable[[], object], outcomes: dict[str, object]) -> None:
        try:
            outcome = move()
        except Exception as exc:  # noqa: BLE001 - looked at by the test
            outcome = exc
        self._turns[name].acquire()  # the last turn finds it done
        outcomes[name] = outcome
        self._done.release()

    def _bury(self, name: str) -> None:
        """What others see of a process that is gone."""
        for key in self.own_tags:
            if self._writers[key] == name:
                self.own_tags[key] = json.dumps(json.loads(self.own_tags[key]) | {"started": "before"})


@pytest.fixture
def hurried(monkeypatch):
    """Nobody waits for the clock."""
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: None)


SEEDS = range(300)


def test_two_moves_in_any_order_of_their_calls(hurried):
    ends = Counter()
    for seed in SEEDS:
        memory = Memory()
        moves = {"back": partial(alias_moves.roll_back, memory, LIVE),
                 "forward": partial(alias_moves.put, memory, LIVE, 3, "gate")}  # fmt: skip
        outcomes = memory.run(moves, random.Random(seed))
        is_refused = isinstance(outcomes["back"], MoveRefused)
        assert outcomes["forward"] is None and memory.own_tags == {}, seed
        assert memory.history == ([2, 3] if is_refused else [2, 1, 3]), seed
        assert memory.found == {LIVE: memory.history[-1], PREVIOUS: memory.history[-2]}, seed
        ends[str(memory.history)] += 1
    assert len(ends) > 1


def test_two_rollbacks_do_not_undo_one_another(hurried):
    for seed in SEEDS:
        memory = Memory()
        moves = {name: partial(alias_moves.roll_back, memory, LIVE) for name in ("one", "other")}
        outcomes = memory.run(moves, random.Random(seed))
        refused = [outcome for outcome in outcomes.values() if isinstance(outcome, MoveRefused)]
        assert [str(one) for one in refused] == ["Another command has just moved production from version 2 to 1."], seed
        assert memory.found == {LIVE: 1, PREVIOUS: 2} and memory.own_tags == {}, seed


def test_one_of_two_is_killed_anywhere(hurried):
    for seed in SEEDS:
        memory, chance = Memory(), random.Random(seed)
        moves = {"back": partial(alias_moves.roll_back, memory, LIVE),
                 "forward": partial(alias_moves.put, memory, LIVE, 3, "gate")}  # fmt: skip
        killed = chance.choice(list(moves))
        memory.run(moves, chance, killed=(killed, chance.randrange(14)))
        memory.run({"settle": partial(alias_moves.settle, memory)}, chance)
        assert memory.own_tags == {}, seed
        assert memory.found == {LIVE: memory.history[-1], PREVIOUS: ([1, *memory.history])[-2]}, seed


# --- real processes on a real registry ------------------------------------------------------------

ORCHESTRATOR = """
from genai_lifecycle.store import prompt_registry as registry
for number in range(8):
    registry.put_in_production("qa", 3 + number % 2, "gate")
"""
SERVER = """
from genai_server.errors import Conflict
from genai_server.prompts.registry import PromptRegistry
moved = 0
while moved < 4:
    try:
        PromptRegistry(sys.argv[1]).roll_back("qa")
        moved += 1
    except Conflict as exc:
        print(exc.sentence)
"""


def test_an_orchestrator_and_a_server_at_once(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri, uri)
    for _ in range(4):
        client.register_prompt("qa", "{{question}}")
    for alias, version in ((LIVE, 2), (PREVIOUS, 1)):
        client.set_prompt_alias("qa", alias, version)
    start = "import sys, mlflow\nmlflow.set_tracking_uri(sys.argv[1])\nmlflow.set_registry_uri(sys.argv[1])\n"
    with tempfile.TemporaryFile("w+") as said:
        both = [
            forked.Popen([sys.executable, "-c", start + program, uri], stdout=said, stderr=said)
            for program in (ORCHESTRATOR, SERVER)
        ]
        seen = set()
        while any(process.poll() is None for process in both):
            seen.add(aliases(uri)[LIVE])
            time.sleep(0.01)
        said.seek(0)
        assert [process.wait() for process in both] == [0, 0], said.read()
    assert seen <= {1, 2, 3, 4} and len(seen) > 1
    left = aliases(uri)
    assert left[LIVE] != left[PREVIOUS]
    former = client.get_prompt_version("qa", left[LIVE]).tags["production.former"]
    assert str(left[PREVIOUS]) == former  # whoever was last, it was a whole move


def aliases(uri: str) -> dict[str, int]:
    found = mlflow.MlflowClient(uri, uri).search_registered_models("tags.`mlflow.prompt.is_prompt` = 'true'")[0]
    return {alias: int(version) for alias, version in found.aliases.items()}
