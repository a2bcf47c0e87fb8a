"""Which version of a prompt is in production: past the gate, by force, or back to the one before.

`previous` is the version that `production` pointed at before; it moves first, so that a process killed between the
two leaves a production that was right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from genai_lifecycle.errors import NotFound
from genai_lifecycle.evaluation.gate import Evidence, Policy, decide
from genai_lifecycle.prompts import registry
from genai_lifecycle.prompts.registry import PREVIOUS, PRODUCTION
from genai_lifecycle.prompts.variables import mismatch
from genai_lifecycle.results import Decision, StoredPrompt, StoredVersion

# Tags of a version that was put in production: when, in place of which one, and how it got there.
SINCE, FORMER, HOW = "production.since", "production.former", "production.how"
CREATED, GATE, FORCED, ROLLED_BACK = "created", "gate", "forced", "rollback"


@dataclass(frozen=True)
class Gate:
    """What decides, and where the findings about a version (`NAME/VERSION`) come from."""

    policy: Policy
    evidence_of: Callable[[str], Evidence | None]
    seed: int = 0


def promote(prompt: StoredPrompt, version: StoredVersion, gate: Gate, *, force: bool = False) -> Decision:
    """Ask the gate, tag the version with what it said, and move `production` where it may."""
    former = in_production(prompt)
    decision = _decided(version, former, gate, force)
    registry.tag_version(version.name, version.version, decision.tags())
    if decision.allowed:
        move(prompt, version.version, GATE if decision.passed else FORCED)
    return decision


def _decided(version: StoredVersion, former: StoredVersion | None, gate: Gate, force: bool) -> Decision:
    """The gate's decision; a version that wants other variables than its callers send fails whatever its scores."""
    before = gate.evidence_of(str(former)) if former else None
    if former is not None and before is None:
        before = Evidence(str(former), "")  # not evaluated: the gate says so
    decision = decide(gate.policy, gate.evidence_of(str(version)), before, seed=gate.seed, force=force)
    differs = mismatch(version.template, former.template) if former else ""
    if not differs:
        return decision
    return replace(decision, allowed=force, passed=False, reasons=(*decision.reasons, differs))


def in_production(prompt: StoredPrompt) -> StoredVersion | None:
    """The version that has the alias `production`."""
    number = prompt.aliases.get(PRODUCTION)
    return registry.version_of(prompt, number) if number is not None else None


def move(prompt: StoredPrompt, number: int, how: str) -> None:
    """Put a version in production and remember the one before. A version that is there already moves nothing."""
    former = prompt.aliases.get(PRODUCTION)
    if former == number:
        return
    if former is not None:
        registry.set_alias(prompt.name, PREVIOUS, former)
    registry.set_alias(prompt.name, PRODUCTION, number)
    registry.tag_version(prompt.name, number, _record(former, how))


def roll_back(prompt: StoredPrompt) -> tuple[int, int]:
    """Put `previous` in production; the two change places. Returns (version now, version before).

    Raises:
        NotFound: no former version is recorded, or it was deleted.
    """
    now, before = prompt.aliases.get(PRODUCTION), prompt.aliases.get(PREVIOUS)
    if now is None or before is None or now == before:
        raise NotFound(
            f"No version of {prompt.name!r} before the one in production is recorded.",
            hint="Name one: --mode prompts alias --alias production --version N.",
        )
    registry.set_alias(prompt.name, PRODUCTION, before)
    registry.set_alias(prompt.name, PREVIOUS, now)
    registry.tag_version(prompt.name, before, _record(now, ROLLED_BACK))
    return before, now


def _record(former: int | None, how: str) -> Mapping[str, str]:
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {SINCE: since, HOW: how, FORMER: str(former) if former is not None else "none"}
