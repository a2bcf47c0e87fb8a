"""How prompts look on a terminal: text in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.prompts.promotion import FORMER, HOW, SINCE, evaluate_flags
from genai_lifecycle.prompts.variables import variables_of
from genai_lifecycle.serving.commands import mode_command
from genai_lifecycle.stages.prompts import PromptsResult
from genai_lifecycle.store.prompt_registry import StoredPrompt, StoredVersion

_WIDEST = 60  # characters of a cell


def text_of(config: E2EConfig, result: PromptsResult) -> str:
    """What a person reads of it, with what to type next."""
    if result.action == "list":
        return _prompts(result.prompts)
    if result.action == "show":
        return _version(result.versions[0])
    if result.action == "history":
        return _history(result.versions)
    if result.action == "diff":
        return result.diff or "The texts are the same."
    return _changed(config, result)


def _prompts(prompts: Sequence[StoredPrompt]) -> str:
    if not prompts:
        return "There is no prompt yet. Make one: --mode prompts create --name NAME --template TEXT"
    rows = [(p.name, str(p.latest or "none"), _aliases(p.aliases), _pairs(p.tags)) for p in prompts]
    return table(("PROMPT", "NEWEST", "ALIASES", "TAGS"), rows)


def _changed(config: E2EConfig, result: PromptsResult) -> str:
    lines = [result.message, *([f"  gate: {result.decision}"] if result.decision else [])]
    if result.decision is not None and not result.decision.allowed:
        flags = evaluate_flags(result.prompts[0], result.versions[0].version)
        lines += [f"  next: {mode_command(config, 'evaluate', *flags, '--promote')}"]
    return "\n".join(lines)


def _version(version: StoredVersion) -> str:
    facts = {
        "prompt": str(version),
        "aliases": ", ".join(version.aliases) or "none",
        "variables": ", ".join(variables_of(version.template)) or "none",
        "made": _moment(version.created_ms),
        "message": version.commit_message or "none",
        "tags": _pairs(version.tags) or "none",
    }
    head = "\n".join(f"{name:10} {value}" for name, value in facts.items())
    return f"{head}\n\n{version.template}"


def _history(versions: Sequence[StoredVersion]) -> str:
    rows = [
        (
            str(v.version), _moment(v.created_ms), ", ".join(v.aliases), v.tags.get(SINCE, ""), v.tags.get(HOW, ""),
            v.tags.get(FORMER, ""), v.tags.get("gate.decision", ""), v.commit_message,
        )
        for v in versions
    ]  # fmt: skip
    return table(("VERSION", "MADE", "ALIASES", "PRODUCTION SINCE", "HOW", "FORMER", "GATE", "MESSAGE"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; a long one is cut, and every cell is one line."""
    cells = [tuple(head), *(tuple(_cell(cell) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _WIDEST else f"{one_line[: _WIDEST - 1]}…"


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{alias} {number}" for alias, number in sorted(aliases.items()))


def _pairs(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in tags.items())


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
