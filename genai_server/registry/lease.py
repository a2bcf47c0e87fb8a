"""A lease: one process at a time changes something in MLflow, by whatever route it reaches the store.

MLflow has no transaction over several calls and no compare-and-set, so a lease is a tag under a key of its own. A
process first writes its tag and then looks for those of others: of two that come at once at least one sees the other,
and withdraws. A tag no longer counts when its process is gone, which is known at once on the same machine, or when its
time is up; clocks that differ by seconds do no harm. What such a process noted there, the next one puts in order.

The orchestrator uses it too.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

PREFIX = "lifecycle.lease."
_PAUSE_S = (0.02, 0.2)  # drawn at random, so that two which have withdrawn do not meet again


class LeaseTaken(Exception):
    """Another process has it; the text names that process."""


class LeaseLost(Exception):
    """We had it for longer than we said, so another process may have it now."""


class Tags(Protocol):
    """Where leases are written: whoever shares something sees the same tags."""

    def tags(self) -> Mapping[str, str]: ...

    def set_tag(self, key: str, value: str) -> None: ...

    def delete_tag(self, key: str) -> None: ...


@dataclass(frozen=True)
class Claim:
    """The value of one tag."""

    host: str
    pid: int
    started: str  # when the process began, in the system's own words; tells it from a later one of this number
    until_ms: int  # Unix time
    note: Mapping[str, Any]

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('/')[0]}"

    def is_void(self) -> bool:
        is_gone = self.host == _host() and _started(self.pid) != self.started
        return is_gone or time.time() * 1000 >= self.until_ms


class Lease:
    """Ours, once `take` has returned, until `release` or `leave`.

    Args:
        for_s: how long it counts; `renew` counts anew.
    """

    def __init__(self, tags: Tags, for_s: float):
        self._tags, self._for_s = tags, for_s
        self._key = f"{PREFIX}{uuid.uuid4().hex}"
        self._note: Mapping[str, Any] = {}
        self._until = 0.0  # by this process's own clock
        self.abandoned: dict[str, Mapping[str, Any]] = {}  # key -> what a process noted that is gone

    def take(self, patience_s: float) -> None:
        """Wait until nobody else has it. Raises LeaseTaken after `patience_s`."""
        deadline = time.monotonic() + patience_s
        while True:
            other = self._other()
            if other is None:
                self._write()
                other = self._other()
                if other is None:
                    return
                self._tags.delete_tag(self._key)
            if time.monotonic() >= deadline:
                raise LeaseTaken(str(other))
            time.sleep(random.uniform(*_PAUSE_S))

    def note(self, note: Mapping[str, Any]) -> None:
        """What we are about to do, for whoever comes after us if we do not come to its end."""
        self._note = note
        self._write()

    def require(self) -> None:
        """Raises LeaseLost when our time is up."""
        if time.monotonic() >= self._until:
            raise LeaseLost

    def renew(self) -> bool:
        """Count anew from now; False when another process has taken it from us."""
        if self._key not in self._tags.tags():
            return False
        self._write()
        return True

    def forget(self, key: str) -> None:
        """Remove what a process left that is gone."""
        self._tags.delete_tag(key)
        del self.abandoned[key]

    def release(self) -> None:
        """Everything is done."""
        self._tags.delete_tag(self._key)

    def leave(self) -> None:
        """Something failed, which matters more than a tag that is left: what we noted is for the next one."""
        if time.monotonic() >= self._until:
            return  # it may be another's by now
        with suppress(Exception):
            if self._note:
                self._write(is_void=True)
            else:
                self.release()

    def _other(self) -> Claim | None:
        """Another's claim that counts; those that do not are in `abandoned` afterwards."""
        others = claims(self._tags.tags())
        others.pop(self._key, None)
        self.abandoned = {key: claim.note for key, claim in others.items() if claim.is_void()}
        return next((claim for key, claim in others.items() if key not in self.abandoned), None)

    def _write(self, *, is_void: bool = False) -> None:
        self._until = time.monotonic() + self._for_s
        until_ms = 0 if is_void else int((time.time() + self._for_s) * 1000)
        claim = Claim(_host(), os.getpid(), _started(os.getpid()), until_ms, self._note)
        self._tags.set_tag(self._key, json.dumps(asdict(claim)))


def claims(tags: Mapping[str, str]) -> dict[str, Claim]:
    """By key, those among other tags."""
    return {key: _parsed(value) for key, value in tags.items() if key.startswith(PREFIX)}


def _parsed(value: str) -> Claim:
    try:
        return Claim(**json.loads(value))
    except (ValueError, TypeError):  # not ours
        return Claim("", 0, "", 0, {})


def _host() -> str:
    """Where process numbers mean the same: the machine, and on Linux the container."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _started(pid: int) -> str:
    """Empty where there is no such process; the same for all where the system does not say when they began."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass  # it is another user's, and there
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return "running"
    return "" if state in "ZX" else fields[18]
