"""Prompts in MLflow's registry, as this server reads and changes them; mlflow-skinny is enough. Knows no HTTP.

In MLflow a prompt is a registered model with a tag, and its version a model version whose text is a tag. The tags and
the alias `previous` are the orchestrator's (genai_lifecycle/prompts/promotion.py), so that both see one history.
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
from genai_server.filters import equals

PRODUCTION, PREVIOUS = "production", "previous"
SINCE, FORMER, HOW, DECISION = "production.since", "production.former", "production.how", "gate.decision"
PASSED = "passed"
_IS_PROMPT = "tags.`mlflow.prompt.is_prompt` = 'true'"
_TEXT, _TYPE = "mlflow.prompt.text", "_mlflow_prompt_type"
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
        found = self._named(name)
        if found is None:
            raise UnknownPrompt(f"There is no prompt {name!r}.", "GET /prompts names those there are.")
        return found

    def versions(self, prompt: StoredPrompt) -> list[StoredVersion]:
        """Its versions, newest first."""
        with in_our_words():
            wanted = f"{equals('name', prompt.name)} AND {_IS_PROMPT}"
            pages = _pages(self._client().search_model_versions, wanted)
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

    def _named(self, name: str) -> StoredPrompt | None:
        found = self._search(f"{equals('name', name)} AND {_IS_PROMPT}")
        return next((prompt for prompt in found if prompt.name == name), None)

    def _search(self, wanted: str) -> list[StoredPrompt]:
        with in_our_words():
            return [_prompt(found) for found in _pages(self._client().search_registered_models, wanted)]

    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self._uri, self._uri)

    # --- changing ---

    def create(self, name: str, template: str, commit_message: str, tags: Mapping[str, str]) -> StoredVersion:
        """Version 1, in production. Raises Conflict where the name is taken."""
        if (there := self._named(name)) and there.newest:
            raise Conflict(
                f"There is a prompt {name!r} already.", f"POST /prompts/{name}/versions makes a new version."
            )
        number = self._register(name, template, commit_message, tags)
        self._move(self.get(name), number, "created")
        return self.find(name, number)

    def update(
        self, name: str, template: str, commit_message: str, tags: Mapping[str, str], *, force: bool
    ) -> StoredVersion:
        """A new version; in production only by force, since nobody has evaluated it yet."""
        self.get(name)
        number = self._register(name, template, commit_message, tags)
        if force:
            self._force(self.get(name), number)
        return self.find(name, number)

    def point(self, name: str, alias: str, version: int, *, force: bool) -> StoredVersion:
        """Set an alias; `production` only to a version that the gate let pass, or by force. Raises Conflict."""
        stored = self.find(name, version)
        if alias == PREVIOUS:
            raise Conflict(f"The alias {PREVIOUS!r} is kept for a rollback.", "It moves with production.")
        if alias != PRODUCTION:
            with in_our_words():
                self._client().set_prompt_alias(name, alias, version)
        elif stored.tags.get(DECISION) == PASSED:
            self._move(self.get(name), version, "gate")
        elif force:
            self._force(self.get(name), version)
        else:
            raise Conflict(
                f"{name}/{version} has not passed the gate.", "Evaluate it with --mode evaluate, or send force."
            )
        return self.find(name, version)

    def roll_back(self, name: str) -> StoredVersion:
        """Put `previous` in production; the two change places. Raises Conflict where none is recorded."""
        prompt = self.get(name)
        now, before = prompt.aliases.get(PRODUCTION), prompt.aliases.get(PREVIOUS)
        if now is None or before is None or now == before:
            raise Conflict(
                f"No version of {name!r} before the one in production is recorded.", "Point production at one."
            )
        with in_our_words():
            self._client().set_prompt_alias(name, PRODUCTION, before)
            self._client().set_prompt_alias(name, PREVIOUS, now)
        self._tag(name, before, _record(now, "rollback"))
        return self.find(name, before)

    def delete(self, name: str, version: int | None, *, force: bool) -> None:
        """A version, or the prompt with all of them. Raises Conflict for what is in production without `force`."""
        prompt = self.get(name)
        live = prompt.aliases.get(PRODUCTION)
        if version is not None:
            self.find(name, version)
        if live is not None and version in (None, live) and not force:
            raise Conflict(f"{name}/{live} is in production.", "Put another version there first, or send force.")
        with in_our_words():
            if version is None:
                self._client().delete_prompt(name)
            else:
                self._client().delete_prompt_version(name, str(version))

    def _register(self, name: str, template: str, commit_message: str, tags: Mapping[str, str]) -> int:
        with in_our_words():
            made = self._client().register_prompt(name, template, commit_message or None, dict(tags))
        return int(made.version)

    def _force(self, prompt: StoredPrompt, version: int) -> None:
        reasons = {DECISION: "refused", "gate.forced": "true", "gate.reasons": "by force, over HTTP"}
        self._tag(prompt.name, version, reasons)
        self._move(prompt, version, "forced")

    def _move(self, prompt: StoredPrompt, version: int, how: str) -> None:
        """`previous` first: killed between the two, production is still right."""
        former = prompt.aliases.get(PRODUCTION)
        if former == version:
            return
        with in_our_words():
            if former is not None:
                self._client().set_prompt_alias(prompt.name, PREVIOUS, former)
            self._client().set_prompt_alias(prompt.name, PRODUCTION, version)
        self._tag(prompt.name, version, _record(former, how))

    def _tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        with in_our_words():
            for key, value in tags.items():
                self._client().set_prompt_version_tag(name, version, key, value)


@contextmanager
def in_our_words() -> Iterator[None]:
    """MLflow's exceptions as the server's own."""
    try:
        yield
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


def _pages(search: Any, wanted: str) -> Iterator[Any]:
    token = None
    while True:
        page = search(filter_string=wanted, page_token=token)
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
    """The tags that people and we gave; MLflow keeps its own beside them."""
    return {key: value for key, value in sorted(tags.items()) if not key.startswith(("mlflow.", "_mlflow"))}


def _record(former: int | None, how: str) -> Mapping[str, str]:
    return {SINCE: _iso(datetime.now(UTC)), HOW: how, FORMER: str(former) if former is not None else "none"}


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _listed(aliases: Mapping[str, int]) -> str:
    return ", ".join(sorted(aliases)) or "none"
