"""Which version of a prompt is in production: past the gate, in spite of it, or back to the one before.

`previous` is the version that `production` pointed at before. How the two aliases move is in
`genai_server/registry/alias_moves.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean

from genai_lifecycle.errors import NotFound
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.gate import Decision, Policy, decide
from genai_lifecycle.prompts.variables import mismatch
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.prompt_registry import PRODUCTION, PromptRef, StoredPrompt, StoredVersion
from genai_server.registry.alias_moves import ROLLBACK, NothingBefore

# Tags of a version that was put in production: when, in place of which one, and how it got there.
SINCE, FORMER, HOW = "production.since", "production.former", "production.how"
CREATED, GATE, FORCED, ROLLED_BACK = "created", "gate", "forced", ROLLBACK


@dataclass(frozen=True)
class Gate:
    """What decides, and where the findings about a version (`NAME/VERSION`) come from."""

    policy: Policy
    evidence_of: Callable[[str], Evidence | None]
    seed: int = 0


def promote(
    prompt: StoredPrompt,
    version: StoredVersion,
    gate: Gate,
    *,
    override: bool = False,
    former: StoredVersion | None = None,
) -> Decision:
    """Ask the gate, tag the version with what it said, and move `production` where it may.

    Args:
        former: the version whose place it takes; None = the prompt's own in production.
    """
    former = former or in_production(prompt)
    decision = _decided(version, former, gate, override)
    registry.tag_version(version.name, version.version, decision.tags())
    if decision.allowed:
        move(prompt, version.version, GATE if decision.passed else FORCED, former)
    return decision


def put_in_production(
    winner: PromptRef, live: Sequence[PromptRef], gate: Gate, *, override: bool = False
) -> tuple[PromptRef, Decision | None]:
    """Of prompts that share one place, as an experiment's templates do, the winner goes there past the gate.

    It gets the alias before the others lose theirs, so that there is always a prompt in production.

    Args:
        live: those in production now. The gate compares with the best of them; where there is none, nothing can get
            worse, and the winner passes.

    Returns:
        The one in production afterwards, and what the gate said: None where it was not asked, because the winner is
        there already, or the server keeps no prompts.
    """
    if winner.version is None:
        return winner, None
    for name in dict.fromkeys(prompt.name for prompt in (winner, *live)):
        registry.settle(name)
    is_there = str(winner) in map(str, live)
    decision = None if is_there else _in_place_of(winner, live, gate, override)
    stays = winner if decision is None or decision.allowed else _best(live, gate)
    for prompt in live:
        if prompt.name != stays.name:
            registry.take_out_of_production(prompt.name)
    return stays, decision


def _in_place_of(winner: PromptRef, live: Sequence[PromptRef], gate: Gate, override: bool) -> Decision:
    stored = registry.require(winner.name)
    version = registry.version_of(stored, winner.version)
    if live:
        best = _best(live, gate)
        former = registry.version_of(registry.require(best.name), best.version)
        return promote(stored, version, gate, override=override, former=former)
    decision = Decision(True, True, gate.policy.mode, False, ("nothing was in production before",))
    registry.tag_version(version.name, version.version, decision.tags())
    move(stored, version.version, CREATED)
    return decision


def _best(live: Sequence[PromptRef], gate: Gate) -> PromptRef:
    """More than one has the alias only after a process was killed between two calls."""

    def mean(prompt: PromptRef) -> float:
        found = gate.evidence_of(str(prompt))
        scores = found.scores.get(gate.policy.metric) if found else None
        return fmean(scores) if scores else float("-inf")

    return max(live, key=mean)


def _decided(version: StoredVersion, former: StoredVersion | None, gate: Gate, override: bool) -> Decision:
    """The gate's decision; a version that wants other variables than its callers send fails whatever its scores."""
    before = gate.evidence_of(str(former)) if former else None
    if former is not None and before is None:
        before = Evidence(str(former), "")  # not evaluated: the gate says so
    decision = decide(gate.policy, gate.evidence_of(str(version)), before, seed=gate.seed, override=override)
    differs = mismatch(version.template, former.template) if former else ""
    if not differs:
        return decision
    return replace(decision, allowed=override, passed=False, reasons=(*decision.reasons, differs))


def evaluate_flags(prompt: StoredPrompt, number: int) -> list[str]:
    """The flags of `--mode evaluate` for a version beside the one in production."""
    compared = [f"{prompt.name}@{PRODUCTION}"] if PRODUCTION in prompt.aliases else []
    return [word for name in [*compared, f"{prompt.name}/{number}"] for word in ("--prompt", name)]


def in_production(prompt: StoredPrompt) -> StoredVersion | None:
    """The version that has the alias `production`."""
    number = prompt.aliases.get(PRODUCTION)
    return registry.version_of(prompt, number) if number is not None else None


def move(prompt: StoredPrompt, number: int, how: str, former: StoredVersion | None = None) -> None:
    """Put a version in production and remember the one before. A version that is there already moves nothing.

    Args:
        former: the version whose place it takes, where that is another prompt's.

    Raises:
        Busy: others move `production` all the time.
    """
    other = str(former) if former is not None and former.name != prompt.name else ""
    registry.put_in_production(prompt.name, number, how, other)


def roll_back(prompt: StoredPrompt) -> tuple[int, int]:
    """Put `previous` in production; the two change places. Returns (version now, version before).

    Raises:
        NotFound: no former version is recorded, or it was deleted.
        Busy: another command has just moved `production`, or others do all the time.
    """
    try:
        done = registry.roll_back(prompt.name)
    except NothingBefore as exc:
        raise NotFound(
            f"No version of {prompt.name!r} before the one in production is recorded.", hint=_other_way(prompt)
        ) from exc
    return done.version, done.former


def _other_way(prompt: StoredPrompt) -> str:
    """The command that puts another version in production: that of the prompt whose place this one took, or any."""
    live = in_production(prompt)
    former = live.tags.get(FORMER, "") if live else ""
    name, _, number = former.rpartition("/")
    command = f"--mode prompts alias --alias {PRODUCTION} --name"
    if name:
        return f"It took the place of {former}: {command} {name} --version {number} puts that one back, past the gate."
    return f"Name one: {command} {prompt.name} --version N."


def since(prompt: PromptRef) -> str:
    """When it was put in production, as text that sorts; empty where it was not put there by us."""
    return registry.version_of(registry.require(prompt.name), prompt.version).tags.get(SINCE, "")


def renew(version: StoredVersion) -> None:
    """Count a version that is in production as the one put there last: `deploy` then takes it before the others."""
    registry.tag_version(version.name, version.version, {SINCE: _now()})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
