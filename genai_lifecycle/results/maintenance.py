"""What the modes relocate, doctor and clean return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MovedColumn:
    """Addresses in one column of MLflow's tables that are below the old place."""

    column: str  # table.column
    rows: int
    before: str  # one of them, and what becomes of it
    after: str


@dataclass(frozen=True)
class Relocation:
    """What `relocate` found, and what it changed (nothing without --apply)."""

    old: str
    new: str
    columns: tuple[MovedColumn, ...]
    changed: int  # addresses
    backup: str | None  # the copy of the database from before
    missing: tuple[str, ...]  # models that are not at the new place; only with --allow-missing


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    state: str  # ok | warning | problem
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class Disposal:
    """One thing that `clean` removes, or would remove."""

    kind: str  # version | model | run | scratch
    name: str
    why: str
    size_bytes: int


@dataclass(frozen=True)
class Cleaning:
    """What `clean` found, and what it removed (nothing without --apply)."""

    disposals: tuple[Disposal, ...]
    removed: int
    kept: str  # a sentence about what stays, and why
    note: str = ""  # what somebody else has to do

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.disposals)
