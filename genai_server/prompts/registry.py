"""Prompts in MLflow's registry, as this server reads and changes them; mlflow-skinny is enough. Knows no HTTP.

In MLflow a prompt is a registered model with a tag, and its version a model version whose text is a tag. The tags are
the orchestrator's (genai_lifecycle/prompts/promotion.py), so that both see one history; `registry/alias_moves.py` moves
`production` and `previous` for both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

from genai_server.errors import BadQuestion, Conflict, RegistryDown, UnknownPrompt
from genai_server.registry import alias_moves
from genai_server.registry.alias_moves import PREVIOUS, MoveRefused, NothingBefore
from genai_server.registry.filters import equals
from genai_server.registry.lease import PREFIX

PRODUCTION = "production"
DECISION, PASSED = "gate.decision", "passed"
_IS_PROMPT = "tags.`mlflow.prompt.is_prompt` = 'true'"
_TEXT, _TYPE = "mlflow.prompt.text", "_mlflow_prompt_type"
_HIDDEN_PREFIXES = ("mlflow.", "_mlflow", PREFIX)
_REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"}
_MISSING = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class StoredPrompt:
    """A prompt as MLflow's registry has it."""

    name: str
    newest: int | None  # version; None when all were deleted
    aliases: Mapping[str, int]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredVersion:
    """One version of a prompt."""

    name: str
    version: int
    template: str  # of a chat prompt: its messages as JSON
    is_chat: bool
    commit_message: str
    created: str  # ISO 8601, UTC
    aliases: Sequence[str]
    tags: Mapping[str, str]


class PromptRegistry:
    """One MLflow registry. Every call waits for MLflow, so none belongs on the event loop.

    Raises, all of them: RegistryDown when MLflow does not answer; BadQuestion for what it refuses.
    """

    def __init__(self, tracking_uri: str | None):
        self._uri = tracking_uri
        # tells the copies of two registries apart; the address itself may hold a password
        self.identity = hashlib.sha256((tracking_uri or "").encode()).hexdigest()[:16]

    # --- reading ---

    def all(self) -> list[StoredPrompt]:
        """Every prompt, by name."""
        return sorted(self._search(_IS_PROMPT), key=lambda prompt: prompt.name)

    def get(self, name: str) -> StoredPrompt:
        """One prompt. Raises UnknownPrompt."""
        prompt = self._find_prompt(name)
        if prompt is None:
            raise UnknownPrompt(f"There is no prompt {name!r}.", "GET /prompts names those there are.")
        return prompt

    def versions(self, prompt: StoredPrompt) -> list[StoredVersion]:
        """Its versions, newest first."""
        with mlflow_errors_translated():
            pages = _pages(self._client().search_model_versions, _name_filter(prompt.name))
            found = [_version(version, prompt.aliases) for version in pages if version.name == prompt.name]
        return sorted(found, key=lambda version: version.version, reverse=True)

    def find(self, name: str, version: int | None = None, alias: str | None = None) -> StoredVersion:
        """A version by its number or alias; by neither, the one in production. Raises UnknownPrompt."""
        prompt = self.get(name)
        number = version if version is not None else prompt.aliases.get(alias or PRODUCTION)
        if number is None:
            raise UnknownPrompt(
                f"{name!r} has no alias {alias or PRODUCTION!r}.", f"It has: {_listed(prompt.aliases)}."
            )
        for stored in self.versions(prompt):
            if stored.version == number:
                return stored
        raise UnknownPrompt(f"There is no version {number} of {name!r}.", f"The newest is {prompt.newest}.")

    def _find_prompt(self, name: str) -> StoredPrompt | None:
        return next((prompt for prompt in self._search(_name_filter(name)) if prompt.name == name), None)

    def _search(self, filter_string: str) -> list[StoredPrompt]:
        with mlflow_errors_translated():
            return [_prompt(found) for found in _pages(self._client().search_registered_models, filter_string)]

    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self._uri, self._uri)

    # --- changing ---

    def create(self, name: str, template: str, commit_message: str, tags: Mapping[str, str]) -> StoredVersion:
        """Version 1, in production. Raises Conflict where the name is taken.

        One that was made, and then not put in production because the server was killed, is put there now.
        """
        stored = self._find_prompt(name)
        number = stored.newest if stored else None
        if stored is None or number is None:
            number = self._register(name, template, commit_message, tags)
        elif stored.aliases or self.find(name, number).template != template:
            raise Conflict(
                f"There is a prompt {name!r} already.", f"POST /prompts/{name}/versions makes a new version."
            )
        self._move(name, number, "created")
        return self.find(name, number)

    def update(
        self, name: str, template: str, commit_message: str, tags: Mapping[str, str], *, force: bool
    ) -> StoredVersion:
        """A new version; in production only by force, since nobody has evaluated it yet."""
        self.get(name)
        number = self._register(name, template, commit_message, tags)
        if force:
            self._force(name, number)
        return self.find(name, number)

    def point(self, name: str, alias: str, version: int, *, force: bool) -> StoredVersion:
        """Set an alias; `production` only to a version that the gate let pass, or by force. Raises Conflict."""
        stored = self.find(name, version)
        if alias == PREVIOUS:
            raise Conflict(f"The alias {PREVIOUS!r} is kept for a rollback.", "It moves with production.")
        if alias != PRODUCTION:
            with mlflow_errors_translated():
                self._client().set_prompt_alias(name, alias, version)
        elif stored.tags.get(DECISION) == PASSED:
            self._move(name, version, "gate")
        elif force:
            self._force(name, version)
        else:
            raise Conflict(
                f"{name}/{version} has not passed the gate.", "Evaluate it with --mode evaluate, or send force."
            )
        return self.find(name, version)

    def roll_back(self, name: str) -> StoredVersion:
        """Put `previous` in production; the two change places. Raises Conflict where none is recorded."""
        self.get(name)
        try:
            with mlflow_errors_translated():
                move = alias_moves.roll_back(self._aliases(name), PRODUCTION)
        except NothingBefore as exc:
            raise Conflict(
                f"No version of {name!r} before the one in production is recorded.", "Point production at one."
            ) from exc
        return self.find(name, move.version)

    def delete(self, name: str, version: int | None, *, force: bool) -> None:
        """A version, or the prompt with all of them. Raises Conflict for what is in production without `force`."""
        prompt = self.get(name)
        live = prompt.aliases.get(PRODUCTION)
        if version is not None:
            self.find(name, version)
        if live is not None and version in (None, live) and not force:
            raise Conflict(f"{name}/{live} is in production.", "Put another version there first, or send force.")
        with mlflow_errors_translated():
            if version is None:
                self._client().delete_prompt(name)
            else:
                self._client().delete_prompt_version(name, str(version))

    def _register(self, name: str, template: str, commit_message: str, tags: Mapping[str, str]) -> int:
        with mlflow_errors_translated():
            made = self._client().register_prompt(name, template, commit_message or None, dict(tags))
        return int(made.version)

    def _force(self, name: str, version: int) -> None:
        reasons = {DECISION: "refused", "gate.forced": "true", "gate.reasons": "by force, over HTTP"}
        with mlflow_errors_translated():
            self._aliases(name).tag_version(version, reasons)
        self._move(name, version, "forced")

    def _move(self, name: str, version: int, how: str) -> None:
        with mlflow_errors_translated():
            alias_moves.put(self._aliases(name), PRODUCTION, version, how)

    def _aliases(self, name: str) -> PromptAliases:
        return PromptAliases(self._client(), name)


class PromptAliases:
    """What `alias_moves` needs of a prompt. Raises MLflow's own exceptions."""

    def __init__(self, client: Any, name: str):
        self._client, self._name = client, name

    def tags(self) -> Mapping[str, str]:
        return next((found.tags for found in self._prompts()), {})

    def aliases(self) -> Mapping[str, int]:
        return next((_prompt(found).aliases for found in self._prompts()), {})

    def set_tag(self, key: str, value: str) -> None:
        self._client.set_prompt_tag(self._name, key, value)

    def delete_tag(self, key: str) -> None:
        self._client.delete_prompt_tag(self._name, key)

    def has_version(self, version: int) -> bool:
        found = _pages(self._client.search_model_versions, _name_filter(self._name))
        return any(int(stored.version) == version for stored in found if stored.name == self._name)

    def set_alias(self, alias: str, version: int) -> None:
        self._client.set_prompt_alias(self._name, alias, version)

    def delete_alias(self, alias: str) -> None:
        self._client.delete_prompt_alias(self._name, alias)

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_prompt_version_tag(self._name, version, key, value)

    def _prompts(self) -> Iterator[Any]:
        found = _pages(self._client.search_registered_models, _name_filter(self._name))
        return (prompt for prompt in found if prompt.name == self._name)


@contextmanager
def mlflow_errors_translated() -> Iterator[None]:
    """MLflow's exceptions as the server's own."""
    try:
        yield
    except MoveRefused as exc:
        raise Conflict(str(exc), "Look which version is in production, then ask again if need be.") from exc
    except UnsupportedModelRegistryStoreURIException as exc:  # mlflow-skinny on a database
        raise _down() from exc
    except MlflowException as exc:
        if exc.error_code == _MISSING:
            raise UnknownPrompt("The prompt is gone.", "Somebody may have deleted it just now.") from exc
        if exc.error_code in _REFUSED:
            raise BadQuestion(f"MLflow refused: {exc.message.splitlines()[0][:300]}") from exc
        raise _down() from exc
    except OSError as exc:
        raise _down() from exc


def _down() -> RegistryDown:
    return RegistryDown("MLflow's prompt registry does not answer.", "Ask again later.")


def _name_filter(name: str) -> str:
    """Matches others too where the name has an apostrophe."""
    return f"{equals('name', name)} AND {_IS_PROMPT}"


def _pages(search: Any, filter_string: str) -> Iterator[Any]:
    token = None
    while True:
        page = search(filter_string=filter_string, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _prompt(found: Any) -> StoredPrompt:
    aliases = {alias: int(number) for alias, number in found.aliases.items()}
    newest = max((int(version.version) for version in found.latest_versions), default=None)
    return StoredPrompt(found.name, newest, aliases, _own(found.tags))


def _version(found: Any, aliases: Mapping[str, int]) -> StoredVersion:
    number = int(found.version)
    return StoredVersion(
        name=found.name,
        version=number,
        template=found.tags.get(_TEXT, ""),
        is_chat=found.tags.get(_TYPE) == "chat",
        commit_message=found.description or "",
        created=_iso(datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)),
        aliases=sorted(alias for alias, pointed in aliases.items() if pointed == number),
        tags=_own(found.tags),
    )


def _own(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that people gave, and what we say of a version; MLflow keeps its own beside them, and we leases."""
    return {key: value for key, value in sorted(tags.items()) if not key.startswith(_HIDDEN_PREFIXES)}


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _listed(aliases: Mapping[str, int]) -> str:
    return ", ".join(sorted(aliases)) or "none"
