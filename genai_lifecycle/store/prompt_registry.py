"""MLflow's prompt registry: the only code that touches it. Which version may be in production is `promotion.py`'s.

In MLflow a prompt is a registered model with a tag, and its version a model version whose text is a tag; searching
for these gives everything in one call, as MLflow's UI and plain REST see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.errors import NoPromptRegistry, NotFound
from genai_lifecycle.store.seam import seam
from genai_server.registry import alias_moves, lease
from genai_server.registry.alias_moves import Move
from genai_server.registry.filters import equals


@dataclass(frozen=True)
class PromptRef:
    """A prompt version. `version` is None where the tracking server keeps no prompts."""

    name: str
    version: int | None
    template: str
    template_name: str = ""  # of a version that an experiment registered: simple, conversational, ...

    def __str__(self) -> str:
        if self.version:
            return f"{self.name}/{self.version}"
        return f"{self.name} ({self.template_name or 'not in a registry'})"

    @property
    def label(self) -> str:
        """For people: `qa/1 simple`."""
        return f"{self} {self.template_name}" if self.version and self.template_name else str(self)


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt as MLflow's registry has it."""

    name: str
    latest: int | None  # its newest version; None when all were deleted
    aliases: Mapping[str, int]  # alias -> version
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredVersion:
    """One version of a prompt as MLflow's registry has it."""

    name: str
    version: int
    template: str  # of a chat prompt: its messages as JSON
    is_chat: bool
    commit_message: str
    created_ms: int  # Unix time
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def ref(self) -> PromptRef:
        """Without a template where it is a list of chat messages: that is no text for the model."""
        return PromptRef(
            self.name, self.version, "" if self.is_chat else self.template, self.tags.get(TEMPLATE_TAG, "")
        )


PRODUCTION, PREVIOUS = "production", alias_moves.PREVIOUS
TEMPLATE_TAG = "template"  # of a version that an experiment registered
# What a server without a prompt registry says: an older one has no such route, a restricted one no such feature.
_NO_REGISTRY = {"ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"}
_IS_PROMPT = "tags.`mlflow.prompt.is_prompt` = 'true'"
_TEXT, _TYPE = "mlflow.prompt.text", "_mlflow_prompt_type"
_NOT_SHOWN = ("mlflow.", "_mlflow", lease.PREFIX)


# --- what there is --------------------------------------------------------------------------------


def all_prompts() -> list[StoredPrompt]:
    """Every prompt with its aliases, by name. Raises NoPromptRegistry where the server keeps none."""
    return sorted(_search(_IS_PROMPT), key=lambda prompt: prompt.name)


def find(name: str) -> StoredPrompt | None:
    """The prompt, or None."""
    return next((prompt for prompt in _search(_named(name)) if prompt.name == name), None)


def _named(name: str) -> str:
    """May find others too, where the name has an apostrophe."""
    return f"{equals('name', name)} AND {_IS_PROMPT}"


def _search(wanted: str) -> list[StoredPrompt]:
    return [_prompt(found) for found in _search_mlflow(wanted)]


@seam
def _search_mlflow(wanted: str) -> list[Any]:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.search_registered_models(filter_string=wanted)
    except MlflowException as exc:
        if _has_no_registry(exc):
            raise NoPromptRegistry(
                "This MLflow server keeps no prompts.", hint="Prompts need MLflow 3; name another --tracking-uri."
            ) from exc
        raise


def require(name: str) -> StoredPrompt:
    """The prompt. Raises NotFound."""
    prompt = find(name)
    if prompt is None:
        raise NotFound(f"There is no prompt {name!r}.", hint="--mode prompts list shows them; create makes one.")
    return prompt


@seam
def versions(prompt: StoredPrompt) -> list[StoredVersion]:
    """Its versions, newest first; empty where all were deleted one by one."""
    import mlflow

    found = mlflow.search_model_versions(filter_string=_named(prompt.name))
    stored = [_version(version, prompt.aliases) for version in found if version.name == prompt.name]
    return sorted(stored, key=lambda version: version.version, reverse=True)


def version_of(prompt: StoredPrompt, number: int) -> StoredVersion:
    """One version. Raises NotFound."""
    there = versions(prompt)
    for version in there:
        if version.version == number:
            return version
    known = ", ".join(str(version.version) for version in reversed(there)) or "none"
    raise NotFound(f"There is no version {number} of {prompt.name!r}.", hint=f"There are: {known}.")


def in_production(name: str) -> PromptRef | None:
    """The version that has the alias `production`; None where none has it, or the server keeps no prompts."""
    try:
        prompt = find(name)
    except NoPromptRegistry:
        return None
    number = prompt.aliases.get(PRODUCTION) if prompt else None
    return version_of(prompt, number).ref if prompt and number is not None else None


def _prompt(found) -> StoredPrompt:
    aliases = {alias: int(number) for alias, number in found.aliases.items()}
    latest = max((int(version.version) for version in found.latest_versions), default=None)
    return StoredPrompt(found.name, latest, aliases, _own(found.tags))


def _version(found, aliases: Mapping[str, int]) -> StoredVersion:
    number, text = int(found.version), found.tags.get(_TEXT, "")
    return StoredVersion(
        name=found.name,
        version=number,
        template=text,
        is_chat=found.tags.get(_TYPE) == "chat",
        commit_message=found.description or "",
        created_ms=found.creation_timestamp,
        tags=_own(found.tags),
        aliases=tuple(sorted(alias for alias, pointed in aliases.items() if pointed == number)),
    )


def _own(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that people gave, and what we say of a version; MLflow keeps its own beside them, and we leases."""
    return {key: value for key, value in sorted(tags.items()) if not key.startswith(_NOT_SHOWN)}


def _has_no_registry(exc: Exception) -> bool:
    status = getattr(exc, "get_http_status_code", lambda: None)()
    return getattr(exc, "error_code", "") in _NO_REGISTRY or (status == 404 and "API request" in str(exc))


# --- changing it ----------------------------------------------------------------------------------


@seam
def register(name: str, template: str, commit_message: str, tags: Mapping[str, str]) -> int:
    """Make a new version, of a new prompt where the name is free; its number."""
    import mlflow

    made = mlflow.genai.register_prompt(
        name=name, template=template, commit_message=commit_message or None, tags=dict(tags)
    )
    return int(made.version)


def register_templates(name: str, templates: Mapping[str, str], commit_message: str) -> list[PromptRef]:
    """A version of the prompt for each template; a text that has a version already is not registered again.

    Where the server keeps no prompts, every version is None.
    """
    try:
        prompt = find(name)
    except NoPromptRegistry:
        return [PromptRef(name, None, template, key) for key, template in templates.items()]
    stored = {version.template: version.version for version in versions(prompt)} if prompt else {}  # the oldest stays
    refs = []
    for key, template in templates.items():
        number = stored.get(template) or register(name, template, commit_message, {TEMPLATE_TAG: key})
        refs.append(PromptRef(name, number, template, key))
    return refs


@seam
def set_alias(name: str, alias: str, version: int) -> None:
    """Point the alias at a version that is there."""
    import mlflow

    mlflow.genai.set_prompt_alias(name, alias, version)


@seam
def tag_version(name: str, version: int, tags: Mapping[str, str]) -> None:
    """Set tags of one version."""
    import mlflow

    for key, value in tags.items():
        mlflow.genai.set_prompt_version_tag(name, version, key, value)


@seam
def delete_version(name: str, version: int) -> None:
    """Delete a version and, as MLflow does, the aliases that pointed at it."""
    import mlflow

    mlflow.MlflowClient().delete_prompt_version(name, str(version))


@seam
def delete(name: str) -> None:
    """Delete a prompt with all its versions."""
    import mlflow

    mlflow.MlflowClient().delete_prompt(name)


# --- production and previous ----------------------------------------------------------------------


@seam
def put_in_production(name: str, version: int, how: str) -> None:
    """Move `production`, and `previous` with it; see `alias_moves.put`. Raises Busy when others do all the time."""
    alias_moves.put(_PromptAliases(name), PRODUCTION, version, how)


@seam
def roll_back(name: str) -> Move:
    """`production` and `previous` change places; see `alias_moves.roll_back`.

    Raises:
        alias_moves.NothingBefore: no former version is recorded.
        Busy: another command has just moved production, or others do all the time.
    """
    return alias_moves.roll_back(_PromptAliases(name), PRODUCTION)


@seam
def settle(name: str) -> None:
    """Bring a move of `production` to its end that was killed. Raises Busy when others move it all the time."""
    alias_moves.settle(_PromptAliases(name))


class _PromptAliases:
    """What `alias_moves` needs of a prompt."""

    def __init__(self, name: str):
        self._name = name

    def tags(self) -> Mapping[str, str]:
        return next((found.tags for found in _search_mlflow(_named(self._name)) if found.name == self._name), {})

    def aliases(self) -> Mapping[str, int]:
        prompt = find(self._name)
        return prompt.aliases if prompt else {}

    @seam
    def set_tag(self, key: str, value: str) -> None:
        import mlflow

        mlflow.MlflowClient().set_prompt_tag(self._name, key, value)

    @seam
    def delete_tag(self, key: str) -> None:
        import mlflow

        mlflow.MlflowClient().delete_prompt_tag(self._name, key)

    def has_version(self, version: int) -> bool:
        prompt = find(self._name)
        return prompt is not None and any(stored.version == version for stored in versions(prompt))

    def set_alias(self, alias: str, version: int) -> None:
        set_alias(self._name, alias, version)

    @seam
    def delete_alias(self, alias: str) -> None:
        import mlflow

        mlflow.genai.delete_prompt_alias(self._name, alias)

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        tag_version(self._name, version, tags)
