"""Moving the alias that people are served by (`champion`, `production`), and `previous`, the version before, with it.

MLflow moves one alias a call. The move counts once the alias itself points elsewhere; `previous` follows. A process
notes in its lease what it is about to do, so where it is killed in between the next one that moves an alias here either
lets `previous` follow or finds that nothing has happened. At no moment does the alias point at a wrong version.

The orchestrator moves its aliases with this too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from genai_server.registry.lease import Lease, LeaseLost, LeaseTaken, Tags, claims

PREVIOUS = "previous"
ROLLBACK = "rollback"
HOLD_S = 30.0  # a move takes a tenth of a second, on a database that others write to perhaps seconds
PATIENCE_S = 5.0


class MoveRefused(Exception):
    """No alias was moved by us; the text says why, in one sentence."""


class NothingBefore(Exception):
    """No version before the one that has the alias is recorded."""


@dataclass(frozen=True)
class Move:
    """The alias, the version that has it from now on, the one before (None: there was none), and why."""

    alias: str
    version: int
    former: int | None
    how: str


class AliasStore(Tags, Protocol):
    """One registered model or prompt in MLflow."""

    def aliases(self) -> Mapping[str, int]: ...

    def has_version(self, version: int) -> bool: ...

    def set_alias(self, alias: str, version: int) -> None: ...

    def delete_alias(self, alias: str) -> None: ...

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None: ...


def put(store: AliasStore, alias: str, version: int, how: str) -> None:
    """Point the alias at the version, and `previous` at the one before. Moves nothing where it is there already.

    Args:
        how: it got there; stands in the version's tags.

    Raises:
        MoveRefused: another process moves the aliases all the time.
    """
    if store.aliases().get(alias) == version and not _is_unfinished(store):
        return
    with _alone(store) as (lease, _):
        former = store.aliases().get(alias)
        if former != version:
            _carry_out(store, lease, Move(alias, version, former, how))


def roll_back(store: AliasStore, alias: str) -> Move:
    """The alias and `previous` change places. One that was killed before its end is brought there, and not undone.

    Raises:
        NothingBefore: no former version is recorded.
        MoveRefused: another process moves the aliases all the time, or has just done so.
    """
    at_first = store.aliases().get(alias)
    if at_first is None:
        raise NothingBefore
    with _alone(store) as (lease, completed):
        for move in completed:
            if (move.alias, move.how) == (alias, ROLLBACK):
                return move
        aliases = store.aliases()
        now, former = aliases.get(alias), aliases.get(PREVIOUS)
        if now != at_first:
            raise MoveRefused(f"Another command has just moved {alias} from version {at_first} to {now or 'none'}.")
        if former is None or former == now:
            raise NothingBefore
        return _carry_out(store, lease, Move(alias, former, now, ROLLBACK))


def settle(store: AliasStore) -> None:
    """Bring a move to its end that was killed after the alias had moved. Raises MoveRefused as `put` does."""
    if _is_unfinished(store):
        with no_moves(store):
            pass


@contextmanager
def no_moves(store: AliasStore) -> Iterator[None]:
    """Nobody moves these aliases until the end of the block. Raises MoveRefused as `put` does."""
    with _alone(store):
        yield


def _is_unfinished(store: AliasStore) -> bool:
    return bool(claims(store.tags()))


@contextmanager
def _alone(store: AliasStore) -> Iterator[tuple[Lease, list[Move]]]:
    """Nobody else moves these aliases meanwhile; with the moves that others did not bring to their end, and we did."""
    lease = Lease(store, HOLD_S)
    try:
        lease.take(PATIENCE_S)
        yield lease, _completed(store, lease)
    except LeaseTaken as exc:
        raise MoveRefused(f"Another command moves these aliases at this moment ({exc}).") from exc
    except LeaseLost as exc:
        raise MoveRefused("MLflow took too long, and another command may have moved the aliases meanwhile.") from exc
    except BaseException:
        lease.leave()
        raise
    lease.release()


def _completed(store: AliasStore, lease: Lease) -> list[Move]:
    completed = []
    for key, note in list(lease.abandoned.items()):
        move = Move(**note) if note else None
        if move and store.aliases().get(move.alias) == move.version:
            has_former = move.former is not None and store.has_version(move.former)
            _let_previous_follow(store, move if has_former else replace(move, former=None))
            completed.append(move)
        lease.forget(key)
    return completed


def _carry_out(store: AliasStore, lease: Lease, move: Move) -> Move:
    """First what the next one needs if we are killed, then the tags of the version, then the alias, then `previous`."""
    lease.note(asdict(move))
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    former = "none" if move.former is None else str(move.former)
    tags = {f"{move.alias}.since": since, f"{move.alias}.how": move.how, f"{move.alias}.former": former}
    store.tag_version(move.version, tags)
    lease.require()
    store.set_alias(move.alias, move.version)
    lease.require()
    _let_previous_follow(store, move)
    return move


def _let_previous_follow(store: AliasStore, move: Move) -> None:
    if move.former is not None:
        store.set_alias(PREVIOUS, move.former)
    elif store.aliases().get(PREVIOUS) == move.version:
        store.delete_alias(PREVIOUS)
