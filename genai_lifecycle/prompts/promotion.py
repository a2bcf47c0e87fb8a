"""Which version of a prompt is in production: past the gate, in spite of it, or back to the one before.

`previous` is the version that `production` pointed at before. How the two aliases move is in
`genai_server/registry/alias_moves.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from genai_lifecycle.errors import NotFound
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.gate import Decision, Policy, decide
from genai_lifecycle.evaluation.results import EvaluationResult
from genai_lifecycle.prompts.variables import mismatch
from genai_lifecycle.store import evaluations
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


def promote_winner(
    result: EvaluationResult, policy: Policy, evidence: Mapping[str, Evidence], *, override: bool = False
) -> EvaluationResult:
    """Put the winner of a comparison in production past the gate; its decision stands on the comparison's run too.

    Args:
        evidence: of each prompt version that was compared.
    """
    winner = result.winner.prompt
    stays, decision = put_in_production(winner, Gate(policy, evidence.get), override=override)
    if decision is not None:
        evaluations.attach_decision(result.run_id, {"subject": str(winner), **asdict(decision)})
    return replace(result, decision=decision, in_production=stays)


def put_in_production(
    winner: PromptRef, gate: Gate, *, override: bool = False
) -> tuple[PromptRef | None, Decision | None]:
    """Put a version in production, past the gate.

    Returns:
        The version in production afterwards (None: there is none), and the gate's decision: None where it was not
        asked, because the winner is there already, or the server keeps no prompts.
    """
    if winner.version is None:
        return winner, None
    registry.settle(winner.name)
    prompt = registry.require(winner.name)
    if prompt.aliases.get(PRODUCTION) == winner.version:
        return winner, None
    former = in_production(prompt)
    decision = promote(prompt, registry.version_of(prompt, winner.version), gate, override=override)
    stays = former.ref if former is not None else None
    return (winner if decision.allowed else stays), decision


def promote(prompt: StoredPrompt, version: StoredVersion, gate: Gate, *, override: bool = False) -> Decision:
    """Ask the gate, tag the version with what it said, and move `production` where it may."""
    decision = _decided(version, in_production(prompt), gate, override)
    registry.tag_version(version.name, version.version, decision.tags())
    if decision.allowed:
        registry.put_in_production(prompt.name, version.version, GATE if decision.passed else FORCED)
    return decision


def _decided(version: StoredVersion, former: StoredVersion | None, gate: Gate, override: bool) -> Decision:
    """The gate's decision; a version that wants other variables than its callers send fails whatever its scores."""
    before = gate.evidence_of(str(former)) if former else None
    if former is not None and before is None:
        before = Evidence(str(former), "")  # not evaluated: the gate says so
    decision = decide(gate.policy, gate.evidence_of(str(version)), before, override=override)
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
            f"No version of {prompt.name!r} before the one in production is recorded.",
            hint=f"Name one: --mode prompts alias --alias {PRODUCTION} --name {prompt.name} --version N.",
        ) from exc
    return done.version, done.former
