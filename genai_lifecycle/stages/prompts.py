"""`--mode prompts`: list, show, create, update, diff, delete, alias, rollback and history, one function each.

Every function takes the wish and returns a `PromptsResult`; nothing is printed here. What may be in production is
`prompts/promotion.py`'s, how it looks `prompts/printed.py`'s.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, GateRefused, NotFound
from genai_lifecycle.evaluation.gate import Decision
from genai_lifecycle.prompts import promotion
from genai_lifecycle.prompts.promotion import Gate
from genai_lifecycle.prompts.variables import require_sound
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


@dataclass(frozen=True)
class PromptsWish:
    """What the command line asked for; `None` where it said nothing. Raises ConfigError for a value that is wrong."""

    action: str = "list"
    name: str | None = None
    template: str | None = None
    commit_message: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int | None = None
    alias: str | None = None
    override_gate: bool = False
    even_in_production: bool = False  # delete

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"The prompts action is {self.action!r}.", hint=f"Use one of {', '.join(ACTIONS)}.")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"The prompt's name {self.name!r} has a character that is not allowed, or is empty or too long.",
                hint="Use letters a to z, digits, '.', '_' and '-', 128 at most.",
            )
        if self.alias is not None and not _ALIAS.fullmatch(self.alias):
            raise ConfigError(
                f"The alias {self.alias!r} is not allowed.", hint="Use a word like production or staging."
            )
        for key, value in self.tags.items():
            if not key or key.startswith(_OURS) or len(key) > 250 or len(value) > 5000:
                raise ConfigError(
                    f"The tag {key[:60]!r} is not allowed.", hint="Use another key; the value may have 5000 characters."
                )
        self._require_what_the_action_needs()

    def _require_what_the_action_needs(self) -> None:
        if self.action != "list" and self.name is None:
            raise ConfigError(f"--mode prompts {self.action} needs a prompt.", hint="Name it with --name.")
        if self.action in ("create", "update"):
            if self.template is None:
                raise ConfigError(
                    f"--mode prompts {self.action} needs a template.",
                    hint="Give it with --template or --template-file.",
                )
            require_sound(self.template)
        if self.action == "alias" and (self.alias is None or self.version is None):
            raise ConfigError("--mode prompts alias needs an alias and a version.", hint="Give --alias and --version.")
        if self.action == "alias" and self.alias == PREVIOUS:
            raise ConfigError(f"The alias {PREVIOUS!r} is kept for a rollback.", hint="It moves with production.")


def wish_of(config: E2EConfig) -> PromptsWish:
    """What the settings ask for. Raises ConfigError, also where the template's file cannot be read."""
    tags = [tag.partition("=") for tag in config.prompt_tags]
    if wrong := [key for key, separator, _ in tags if not separator]:
        raise ConfigError(f"The tag {wrong[0][:60]!r} has no value.", hint="Write --tag KEY=VALUE.")
    return PromptsWish(
        action=config.prompt_action or "list",
        name=config.prompt_name,
        template=_template_of(config),
        commit_message=config.prompt_commit_message,
        tags={key: value for key, _, value in tags},
        version=config.prompt_version,
        alias=config.prompt_alias,
        override_gate=config.override_gate,
        even_in_production=config.even_in_production,
    )


def _template_of(config: E2EConfig) -> str | None:
    if config.prompt_template_file is None:
        return config.prompt_template
    if config.prompt_template is not None:
        raise ConfigError("Both --template and --template-file are given.", hint="Give one of them.")
    try:
        return config.prompt_template_file.read_text("utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"The template file {config.prompt_template_file} cannot be read ({type(exc).__name__}).",
            hint="Name a text file in UTF-8.",
        ) from exc


def run_prompts(wish: PromptsWish, gate: Callable[[], Gate]) -> PromptsResult:
    """Do what was asked for. `gate` is called only where `production` is to move.

    Raises:
        NotFound: no such prompt, version, alias or former version.
        ConfigError: the name is taken, or the version is in production and `even_in_production` was not given.
        GateRefused: the gate refused to move `production` by `alias`.
        TrackingUnavailable: MLflow does not answer, or keeps no prompts.
        Busy: others move `production` at this moment.
    """
    if wish.action in CHANGES:
        registry.settle(wish.name)
    return ACTIONS[wish.action](wish, gate)


# --- reading --------------------------------------------------------------------------------------


def _list(wish: PromptsWish, _) -> PromptsResult:
    return PromptsResult("list", prompts=tuple(registry.all_prompts()))


def _show(wish: PromptsWish, _) -> PromptsResult:
    prompt = registry.require(wish.name)
    return PromptsResult("show", prompts=(prompt,), versions=(_chosen(prompt, wish),))


def _history(wish: PromptsWish, _) -> PromptsResult:
    prompt = registry.require(wish.name)
    return PromptsResult("history", prompts=(prompt,), versions=tuple(registry.versions(prompt)))


def _diff(wish: PromptsWish, _) -> PromptsResult:
    """From the alias (production) to the version (the newest), or to the template that was given."""
    prompt = registry.require(wish.name)
    before = registry.version_of(prompt, _number_of(prompt, wish.alias or PRODUCTION))
    if wish.template is not None:
        return PromptsResult("diff", diff=_unified(str(before), before.template, "the template", wish.template))
    after = registry.version_of(prompt, wish.version if wish.version is not None else _latest(prompt))
    changed = _unified(str(before), before.template, str(after), after.template)
    return PromptsResult("diff", prompts=(prompt,), versions=(before, after), diff=changed)


def _unified(before_name: str, before: str, after_name: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), before_name, after_name, lineterm="")
    return "\n".join(lines)


def _chosen(prompt: StoredPrompt, wish: PromptsWish) -> StoredVersion:
    """The version or alias that was named; else the one in production, else the newest."""
    if wish.version is not None and wish.alias is not None:
        raise ConfigError("Both --version and --alias are given.", hint="Give one of them.")
    if wish.version is not None:
        return registry.version_of(prompt, wish.version)
    if wish.alias is not None:
        return registry.version_of(prompt, _number_of(prompt, wish.alias))
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


def _create(wish: PromptsWish, _) -> PromptsResult:
    """Register version 1 and put it in production. The same command after a kill does what was left to do."""
    prompt = registry.find(wish.name)
    there = prompt is not None and prompt.latest is not None
    is_used = there and not prompt.aliases.items() <= {(PRODUCTION, prompt.latest)}
    if is_used or (there and registry.version_of(prompt, prompt.latest).template != wish.template):
        raise ConfigError(
            f"There is a prompt {wish.name!r} already.", hint="--mode prompts update makes a new version."
        )
    number = prompt.latest if there else _registered(wish)
    registry.put_in_production(wish.name, number, promotion.CREATED)
    return _result(wish, number, f"Created {wish.name}/{number}; it is in production.")


def _update(wish: PromptsWish, gate: Callable[[], Gate]) -> PromptsResult:
    """A new version where the template is new; `production` moves past the gate, or in spite of it."""
    prompt = registry.require(wish.name)
    opened = gate()  # a gate file that is wrong stops this before anything is registered
    newest = registry.version_of(prompt, prompt.latest) if prompt.latest is not None else None
    if newest is not None and newest.template == wish.template and not newest.is_chat:
        number, made = newest.version, f"{newest} has this template already"
    else:
        number = _registered(wish)
        made = f"Registered {wish.name}/{number}"
    return _promoted(wish, number, made, opened)


def _promoted(wish: PromptsWish, number: int, made: str, gate: Gate) -> PromptsResult:
    prompt = registry.require(wish.name)
    if prompt.aliases.get(PRODUCTION) == number:
        return _result(wish, number, f"{made}; it is in production.")
    decision = promotion.promote(prompt, registry.version_of(prompt, number), gate, override=wish.override_gate)
    stays = prompt.aliases.get(PRODUCTION)
    where = (
        "it is in production" if decision.allowed else f"production stays at {f'version {stays}' if stays else 'none'}"
    )
    return _result(wish, number, f"{made}; {where}.", decision)


def _alias(wish: PromptsWish, gate: Callable[[], Gate]) -> PromptsResult:
    prompt = registry.require(wish.name)
    version = registry.version_of(prompt, wish.version)
    if wish.alias != PRODUCTION:
        registry.set_alias(wish.name, wish.alias, version.version)
        return _result(wish, version.version, f"{wish.alias} points at {version}.")
    result = _promoted(wish, version.version, str(version), gate())
    if result.decision is not None and not result.decision.allowed:
        flags = " ".join(promotion.evaluate_flags(prompt, version.version))
        raise GateRefused(
            f"{version} does not go into production: {'; '.join(result.decision.reasons)}.",
            hint=f"Measure again: --mode evaluate {flags} --cases FILE. --override-gate lets it pass, on record.",
        )
    return replace(result, message=f"{version} is in production.")


def _delete(wish: PromptsWish, _) -> PromptsResult:
    """One version, or the prompt with all of them; what is in production only with `even_in_production`."""
    prompt = registry.require(wish.name)
    live = prompt.aliases.get(PRODUCTION)
    if wish.version is not None:
        registry.version_of(prompt, wish.version)
    if live is not None and wish.version in (None, live) and not wish.even_in_production:
        raise ConfigError(
            f"{wish.name}/{live} is in production.",
            hint="Put another version there first, or add --even-in-production: servers then use the prompt frozen in "
            "their model.",
        )
    if wish.version is None:
        registry.delete(wish.name)
        return PromptsResult("delete", f"Deleted {wish.name} with all its versions.")
    registry.delete_version(wish.name, wish.version)
    return PromptsResult("delete", f"Deleted {wish.name}/{wish.version}.", prompts=(registry.require(wish.name),))


def _rollback(wish: PromptsWish, _) -> PromptsResult:
    now, before = promotion.roll_back(registry.require(wish.name))
    return _result(wish, now, f"{wish.name}/{now} is in production again; version {before} is previous.")


def _registered(wish: PromptsWish) -> int:
    return registry.register(wish.name, wish.template, wish.commit_message, wish.tags)


def _result(wish: PromptsWish, number: int, message: str, decision: Decision | None = None) -> PromptsResult:
    """With the prompt and the version as the registry has them now."""
    prompt = registry.require(wish.name)
    version = registry.version_of(prompt, number)
    return PromptsResult(wish.action, message, (prompt,), (version,), decision=decision)


CHANGES = ("create", "update", "alias", "delete")  # rollback, too, which has to see what was left unfinished
ACTIONS: dict[str, Callable[[PromptsWish, Callable[[], Gate]], PromptsResult]] = {
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
