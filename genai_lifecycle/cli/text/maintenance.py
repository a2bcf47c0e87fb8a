"""What the modes relocate, doctor and clean tell a person, as text. `main.py` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_lifecycle.stages.clean import Cleaning
    from genai_lifecycle.stages.doctor import Finding
    from genai_lifecycle.stages.relocate import Relocation


SHOWN = 20  # disposals of one kind that are listed; the others are counted
_KINDS = {"scratch": "folders of killed commands", "version": "versions", "model": "models without a version",
          "run": "runs"}  # fmt: skip


def of_relocation(result: Relocation) -> str:
    """A line for each column of the database, with an example."""
    lines = [f"From       {result.old}", f"To         {result.new}", ""]
    for item in result.columns:
        lines += [f"  {item.rows:6} {item.column}", f"         {item.before}", f"      -> {item.after}"]
    lines += [f"  missing at the new place: {address}" for address in result.missing]
    if not result.columns:
        lines.append("Nothing to do: no address is below the old place.")
    elif not result.changed:
        lines += ["", "Nothing was changed. The same command with --apply rewrites these addresses."]
    else:
        lines += ["", f"{result.changed} addresses were rewritten."]
        lines += [f"The database from before: {result.backup}"] if result.backup else []
    return "\n".join(lines)


def of_findings(findings: Sequence[Finding]) -> str:
    """A table; what is worst comes last, where it is seen."""
    order = {"ok": 0, "warning": 1, "problem": 2}
    width = max(len(item.what) for item in findings)
    lines = []
    for item in sorted(findings, key=lambda item: order[item.state]):
        lines.append(f"{item.state:8} {item.what:{width}}  {item.detail}")
        if item.next_step:
            lines.append(f"{'':8} {'':{width}}  -> {item.next_step}")
    counted = [f"{sum(item.state == state for item in findings)} {state}" for state in order]
    return "\n".join([*lines, "", ", ".join(counted)])


def of_cleaning(result: Cleaning, *, applied: bool) -> str:
    """What goes, by kind and with sizes, and what stays."""
    lines: list[str] = []
    for kind, title in _KINDS.items():
        items = [item for item in result.disposals if item.kind == kind]
        if not items:
            continue
        lines.append(f"{title}: {len(items)}, {_size(sum(item.size_bytes for item in items))}")
        lines += [f"  {_size(item.size_bytes):>9}  {item.name}  {item.why}" for item in items[:SHOWN]]
        lines += [f"  and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    lines += ["", result.kept]
    total = f"{len(result.disposals)} things, {_size(result.size_bytes)}"
    if not result.disposals:
        lines.append("There is nothing to remove.")
    elif applied:
        stayed = len(result.disposals) - result.removed
        lines.append(f"{total}: removed.{f' {stayed} of them got an alias meanwhile and stayed.' if stayed else ''}")
        lines += [result.note] if result.note else []
    else:
        lines.append(f"{total}. Nothing was removed; the same command with --apply removes them.")
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
