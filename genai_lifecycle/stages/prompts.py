"""`--mode prompts`: list, show, create, update, diff, delete, alias, rollback and history, one function each.

Every function takes the settings and returns a `PromptsResult`; nothing is printed here. What may be in production is
`prompts/promotion.py`'s, how it looks `prompts/printed.py`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from genai_lifecycle.errors import ConfigError, GateRefused, NotFound
from genai_lifecycle.evaluation.gate import Decision
from genai_lifecycle.prompts import promotion
from genai_lifecycle.prompts.promotion import Gate
from genai_lifecycle.prompts.variables import require_sound
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.prompt_registry import PREVIOUS, PRODUCTION, StoredPrompt, StoredVersion


@dataclass(frozen=True)
class PromptsResult:
    """What `--mode prompts` did or found."""

    action: str
    message: str = ""  # what was done, in one sentence; empty for what only reads
    prompts: tuple[StoredPrompt, ...] = ()
    versions: tuple[StoredVersion, ...] = ()
    diff: str = ""  # unified
    decision: Decision | None = None  # of the gate, where `production` was to move


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # MLflow's characters
_ALIAS = re.compile(r"(?!latest$|[vV]\d+$)[\w.-]{1,128}")  # MLflow keeps `latest` and v1, v2, … for itself
_OURS = ("mlflow.", "_mlflow", "production.", "gate.")  # tags with a meaning


def _action(_: str, value: str) -> str:
    if value not in ACTIONS:
        raise ConfigError(f"The prompts action is {value!r}.", hint=f"Use one of {', '.join(ACTIONS)}.")
    return value


def _name(_: str, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ConfigError(
            f"The prompt's name {value!r} has a character that is not allowed, or is empty or too long.",
            hint="Use letters a to z, digits, '.', '_' and '-', 128 at most.",
        )
    return value


def _alias_name(_: str, value: str) -> str:
    if not _ALIAS.fullmatch(value):
        raise ConfigError(f"The alias {value!r} is not allowed.", hint="Use a word like production or staging.")
    return value


def _tags(_: str, value: tuple[str, ...]) -> tuple[str, ...]:
    for tag in value:
        key, separator, text = tag.partition("=")
        if not separator:
            raise ConfigError(f"The tag {tag[:60]!r} has no value.", hint="Write --tag KEY=VALUE.")
        if not key or key.startswith(_OURS) or len(key) > 250 or len(text) > 5000:
            hint = "Use another key; the value may have 5000 characters."
            raise ConfigError(f"The tag {key[:60]!r} is not allowed.", hint=hint)
    return value


@dataclass(frozen=True)
class PromptsSettings(Settings):
    """What to do with which prompt."""

    action: str = setting(
        "list", "list, show, create, update, diff, delete, alias, rollback or history", flag="action",
        metavar="ACTION", check=_action,
    )  # fmt: skip
    name: str | None = setting(None, "the prompt's name; every action but list needs it", check=_name)
    template: str | None = setting(None, "its text: {{question}} is a variable, a single { is text", metavar="TEXT")
    template_file: Path | None = setting(None, "the same from a file; its last line break goes", metavar="FILE")
    commit_message: str = setting("", "why there is a new version", metavar="TEXT")
    tags: tuple[str, ...] = setting(
        (), "of the version; may be given again", flag="--tag", metavar="KEY=VALUE", check=_tags
    )
    version: int | None = setting(None, "show, diff, delete, alias: which version", metavar="NUMBER")
    alias: str | None = setting(None, "show, diff, alias: for example production", check=_alias_name)
    override_gate: bool = setting(False, "update, alias: into production whatever the gate finds; recorded")
    even_in_production: bool = setting(
        False, "delete: what is in production too; servers then use their model's own prompt"
    )
    json: bool = setting(False, "print JSON, for programs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template_file is not None:
            object.__setattr__(self, "template", self._text_of_file())
        if self.action != "list" and self.name is None:
            raise ConfigError(f"--mode prompts {self.action} needs a prompt.", hint="Name it with --name.")
        if self.action in ("create", "update"):
            self._require_template()
        if self.action == "alias":
            self._require_alias()

    def _text_of_file(self) -> str:
        if self.template is not None:
            raise ConfigError("Both --template and --template-file are given.", hint="Give one of them.")
        try:
            return self.template_file.read_text("utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"The template file {self.template_file} cannot be read ({type(exc).__name__}).",
                hint="Name a text file in UTF-8.",
            ) from exc

    def _require_template(self) -> None:
        if self.template is None:
            raise ConfigError(
                f"--mode prompts {self.action} needs a template.", hint="Give it with --template or --template-file."
            )
        require_sound(self.template)

    def _require_alias(self) -> None:
        if self.alias is None or self.version is None:
            raise ConfigError("--mode prompts alias needs an alias and a version.", hint="Give --alias and --version.")
        if self.alias == PREVIOUS:
            raise ConfigError(f"The alias {PREVIOUS!r} is kept for a rollback.", hint="It moves with production.")


def run_prompts(settings: PromptsSettings, gate: Callable[[], Gate]) -> PromptsResult:
    """Do what was asked for. `gate` is called only where `production` is to move.

    Raises:
        NotFound: no such prompt, version, alias or former version.
        ConfigError: the name is taken, or the version is in production and `even_in_production` was not given.
        GateRefused: the gate refused to move `production` by `alias`.
        TrackingUnavailable: MLflow does not answer, or keeps no prompts.
        Busy: others move `production` at this moment.
    """
    if settings.action in CHANGES:
        registry.settle(settings.name)
    return ACTIONS[settings.action](settings, gate)


# --- reading --------------------------------------------------------------------------------------


def _list(settings: PromptsSettings, _) -> PromptsResult:
    return PromptsResult("list", prompts=tuple(registry.all_prompts()))


def _show(settings: PromptsSettings, _) -> PromptsResult:
    prompt = registry.require(settings.name)
    return PromptsResult("show", prompts=(prompt,), versions=(_chosen(prompt, settings),))


def _history(settings: PromptsSettings, _) -> PromptsResult:
    prompt = registry.require(settings.name)
    return PromptsResult("history", prompts=(prompt,), versions=tuple(registry.versions(prompt)))


def _diff(settings: PromptsSettings, _) -> PromptsResult:
    """From the alias (production) to the version (the newest), or to the template that was given."""
    prompt = registry.require(settings.name)
    before = registry.version_of(prompt, _number_of(prompt, settings.alias or PRODUCTION))
    if settings.template is not None:
        return PromptsResult("diff", diff=_unified(str(before), before.template, "the template", settings.template))
    after = registry.version_of(prompt, settings.version if settings.version is not None else _latest(prompt))
    changed = _unified(str(before), before.template, str(after), after.template)
    return PromptsResult("diff", prompts=(prompt,), versions=(before, after), diff=changed)


def _unified(before_name: str, before: str, after_name: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), before_name, after_name, lineterm="")
    return "\n".join(lines)


def _chosen(prompt: StoredPrompt, settings: PromptsSettings) -> StoredVersion:
    """The version or alias that was named; else the one in production, else the newest."""
    if settings.version is not None and settings.alias is not None:
        raise ConfigError("Both --version and --alias are given.", hint="Give one of them.")
    if settings.version is not None:
        return registry.version_of(prompt, settings.version)
    if settings.alias is not None:
        return registry.version_of(prompt, _number_of(prompt, settings.alias))
    number = prompt.aliases.get(PRODUCTION)
    return registry.version_of(prompt, number if number is not None else _latest(prompt))


def _number_of(prompt: StoredPrompt, alias: str) -> int:
    if alias not in prompt.aliases:
        known = ", ".join(sorted(prompt.aliases)) or "none"
        raise NotFound(f"{prompt.name!r} has no alias {alias!r}.", hint=f"Its aliases: {known}.")
    return prompt.aliases[alias]


def _latest(prompt: StoredPrompt) -> int:
    if prompt.latest is None:
        raise NotFound(f"{prompt.name!r} has no version any more.", hint="Make one with --mode prompts update.")
    return prompt.latest


# --- changing -------------------------------------------------------------------------------------


def _create(settings: PromptsSettings, _) -> PromptsResult:
    """Register version 1 and put it in production. The same command after a kill does what was left to do."""
    prompt = registry.find(settings.name)
    there = prompt is not None and prompt.latest is not None
    is_used = there and not prompt.aliases.items() <= {(PRODUCTION, prompt.latest)}
    if is_used or (there and registry.version_of(prompt, prompt.latest).template != settings.template):
        raise ConfigError(
            f"There is a prompt {settings.name!r} already.", hint="--mode prompts update makes a new version."
        )
    number = prompt.latest if there else _registered(settings)
    registry.put_in_production(settings.name, number, promotion.CREATED)
    return _result(settings, number, f"Created {settings.name}/{number}; it is in production.")


def _update(settings: PromptsSettings, gate: Callable[[], Gate]) -> PromptsResult:
    """A new version where the template is new; `production` moves past the gate, or in spite of it."""
    prompt = registry.require(settings.name)
    opened = gate()  # a gate file that is wrong stops this before anything is registered
    newest = registry.version_of(prompt, prompt.latest) if prompt.latest is not None else None
    if newest is not None and newest.template == settings.template and not newest.is_chat:
        number, made = newest.version, f"{newest} has this template already"
    else:
        number = _registered(settings)
        made = f"Registered {settings.name}/{number}"
    return _promoted(settings, number, made, opened)


def _promoted(settings: PromptsSettings, number: int, made: str, gate: Gate) -> PromptsResult:
    prompt = registry.require(settings.name)
    if prompt.aliases.get(PRODUCTION) == number:
        return _result(settings, number, f"{made}; it is in production.")
    decision = promotion.promote(prompt, registry.version_of(prompt, number), gate, override=settings.override_gate)
    stays = prompt.aliases.get(PRODUCTION)
    where = (
        "it is in production" if decision.allowed else f"production stays at {f'version {stays}' if stays else 'none'}"
    )
    return _result(settings, number, f"{made}; {where}.", decision)


def _alias(settings: PromptsSettings, gate: Callable[[], Gate]) -> PromptsResult:
    prompt = registry.require(settings.name)
    version = registry.version_of(prompt, settings.version)
    if settings.alias != PRODUCTION:
        registry.set_alias(settings.name, settings.alias, version.version)
        return _result(settings, version.version, f"{settings.alias} points at {version}.")
    result = _promoted(settings, version.version, str(version), gate())
    if result.decision is not None and not result.decision.allowed:
        flags = " ".join(promotion.evaluate_flags(prompt, version.version))
        raise GateRefused(
            f"{version} does not go into production: {'; '.join(result.decision.reasons)}.",
            hint=f"Measure again: --mode evaluate {flags} --cases FILE. --override-gate lets it pass, on record.",
        )
    return replace(result, message=f"{version} is in production.")


def _delete(settings: PromptsSettings, _) -> PromptsResult:
    """One version, or the prompt with all of them; what is in production only with `even_in_production`."""
    prompt = registry.require(settings.name)
    live = prompt.aliases.get(PRODUCTION)
    if settings.version is not None:
        registry.version_of(prompt, settings.version)
    if live is not None and settings.version in (None, live) and not settings.even_in_production:
        raise ConfigError(
            f"{settings.name}/{live} is in production.",
            hint="Put another version there first, or add --even-in-production: servers then use the prompt frozen in "
            "their model.",
        )
    if settings.version is None:
        registry.delete(settings.name)
        return PromptsResult("delete", f"Deleted {settings.name} with all its versions.")
    registry.delete_version(settings.name, settings.version)
    return PromptsResult(
        "delete", f"Deleted {settings.name}/{settings.version}.", prompts=(registry.require(settings.name),)
    )


def _rollback(settings: PromptsSettings, _) -> PromptsResult:
    now, before = promotion.roll_back(registry.require(settings.name))
    return _result(settings, now, f"{settings.name}/{now} is in production again; version {before} is previous.")


def _registered(settings: PromptsSettings) -> int:
    return registry.register(
        settings.name, settings.template, settings.commit_message, dict(tag.split("=", 1) for tag in settings.tags)
    )


def _result(settings: PromptsSettings, number: int, message: str, decision: Decision | None = None) -> PromptsResult:
    """With the prompt and the version as the registry has them now."""
    prompt = registry.require(settings.name)
    version = registry.version_of(prompt, number)
    return PromptsResult(settings.action, message, (prompt,), (version,), decision=decision)


CHANGES = ("create", "update", "alias", "delete")  # rollback, too, which has to see what was left unfinished
ACTIONS: dict[str, Callable[[PromptsSettings, Callable[[], Gate]], PromptsResult]] = {
    "list": _list,
    "show": _show,
    "create": _create,
    "update": _update,
    "diff": _diff,
    "delete": _delete,
    "alias": _alias,
    "rollback": _rollback,
    "history": _history,
}
