"""Mode `verify`: a running server beside the registry. Changes nothing on either side."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai_lifecycle.config import E2EConfig, check_model_uri, check_server_url
from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.models.acceptance.checks import Check
from genai_lifecycle.runtime.scratch import scratch_folder
from genai_lifecycle.serving.client import RunningServer
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.model_registry import ModelVersion


@dataclass(frozen=True)
class VerifySettings(Settings):
    """Which server, and which version should answer there."""

    url: str | None = setting(None, "the server, http://HOST:PORT (its key from API_KEYS)", check=check_server_url)
    model_uri: str | None = setting(
        None, "models:/NAME/VERSION or models:/NAME@ALIAS; the champion when left out",
        metavar="URI", check=check_model_uri,
    )  # fmt: skip


@dataclass(frozen=True)
class ServerComparison:
    """A running server beside the registry; a check that did not pass is a difference."""

    url: str
    model_uri: str  # the version that should answer
    alias: str | None  # by which it was found
    checks: tuple[Check, ...]

    @property
    def differences(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


log = logging.getLogger(__name__)

GOLDEN, CONVERSION = "artifacts/golden.json", "artifacts/ir/conversion.json"


@dataclass(frozen=True)
class Registered:
    """What the registry says of the version that should answer."""

    version: ModelVersion
    alias: str | None  # by which it was found
    aliases: Mapping[str, str | None]  # alias that the server names -> version that has it now
    golden: Sequence[Mapping[str, Any]]
    conversion: Mapping[str, Any]


def compare_server(config: E2EConfig, settings: VerifySettings, key: str = "") -> ServerComparison:
    """Compare the server at `settings.url` with the version that `settings` names (the champion).

    Args:
        key: one of the server's keys; "" for a server without.

    Raises:
        ConfigError: no address was given.
        NotFound: no such version or alias, or its files are gone.
        ServerFailed: nobody answers there, a key is missing, or it is no server of ours.
    """
    if not settings.url:
        raise ConfigError("--mode verify needs a running server.", hint="Name it with --url http://HOST:PORT")
    version, alias = model_registry.named(config.registered_model_name, settings.model_uri)
    with RunningServer(settings.url, key) as server:
        told = server.info()
        registered = _registered(config, version, alias, told["model_alias"])
        checks = identity_checks(told, registered)
        log.info("Asking %d golden questions.", len(registered.golden))
        answers = [server.token_ids(item["question"], item["max_new_tokens"]) for item in registered.golden]
    checks.append(golden_check(answers, registered.golden, told["engine"].get("name")))
    return ServerComparison(url=server.url, model_uri=version.uri, alias=alias, checks=tuple(checks))


def _registered(config: E2EConfig, version: ModelVersion, alias: str | None, its_alias: str | None) -> Registered:
    """With the two files that are needed; the weights stay where they are."""
    with scratch_folder(config.staging_dir, "verify") as scratch:
        golden, conversion = (_read(version, scratch, path) for path in (GOLDEN, CONVERSION))
    now = model_registry.by_alias(version.name, its_alias) if its_alias else None
    aliases = {its_alias: now.version if now else None} if its_alias else {}
    return Registered(version, alias, aliases, golden, conversion)


def _read(version: ModelVersion, folder: Path, path: str) -> Any:
    try:
        return json.loads(model_registry.download(version, folder, path).read_text("utf-8"))
    except ValueError as exc:
        raise NotFound(
            f"{path} of {version.uri} is damaged.", hint="Run --mode deploy and --mode test, or name another version."
        ) from exc


# --- what is compared -----------------------------------------------------------------------------


def identity_checks(told: Mapping[str, Any], registered: Registered) -> list[Check]:
    """What the server says of itself (GET /model/info), line by line."""
    version, tags = registered.version, registered.version.tags
    return [
        _same("model", told["model"], version.name, "its name is"),
        _version(told, registered),
        _alias(told, registered),
        _same("weights", told["weights_sha256"], tags.get("weights_sha256"), "their sha256 is", shown=12),
        _same("prompt", told["prompt"], tags.get("prompt"), "it asks with"),
        _same("run", told["run_id"], tags.get("run_id"), "it comes from"),
        *_engine(told["engine"], registered.conversion),
    ]


def _same(name: str, found: str | None, wanted: str | None, says: str, shown: int | None = None) -> Check:
    """`shown`: characters of a long value that a person needs to see."""
    if found == wanted:
        return Check(name, True, str(found)[:shown])
    given = f"{says} {found[:shown]}" if found else "the server does not say"
    return Check(name, False, f"{given}; the registry has {str(wanted)[:shown]}")


def _version(told: Mapping[str, Any], registered: Registered) -> Check:
    found, wanted = told["model_version"], registered.version.version
    if found == wanted:
        return Check("version", True, found)
    which = f"{registered.alias} is version {wanted}" if registered.alias else f"version {wanted} was asked for"
    if not found:
        return Check("version", False, f"the server does not say, it was started on {told['model_uri']}; {which}")
    return Check("version", False, f"version {found} answers; {which}")


def _alias(told: Mapping[str, Any], registered: Registered) -> Check:
    """Whether the alias that the server was started with (or exported by) still means the same version."""
    alias, version = told["model_alias"], told["model_version"]
    if not alias:
        return Check("alias", True, "it was started by version, not by alias")
    now = registered.aliases.get(alias)
    if now == version:
        return Check("alias", True, f"{alias} is version {now}")
    means = f"{alias} is version {now} by now" if now else f"no version has the alias {alias} any more"
    return Check("alias", False, f"it was started as {alias} when that was version {version}; {means}")


def _engine(engine: Mapping[str, Any], conversion: Mapping[str, Any]) -> list[Check]:
    wanted = "openvino" if conversion.get("converted") else "torch"
    name = _same("engine", engine.get("name"), wanted, "it answers with")
    if not name.passed and engine.get("reason"):
        name = Check("engine", False, f"{name.detail} (it says: {engine['reason']})")
    if wanted != "openvino" or engine.get("name") != wanted:
        return [name]
    return [name, _same("precision", engine.get("precision"), conversion.get("precision"), "its weights are")]


def golden_check(answers: Sequence[Sequence[int]], golden: Sequence[Mapping[str, Any]], engine: str | None) -> Check:
    """Token for token; an engine that has answers of its own on record is held to those.

    Args:
        answers: token ids, in the order of `golden`.
        engine: the one that gave them.
    """
    recorded = [item.get(f"{engine}_token_ids", item["token_ids"]) for item in golden]
    wrong = [index for index, (given, wanted) in enumerate(zip(answers, recorded, strict=True)) if given != wanted]
    if not wrong:
        return Check("golden answers", True, f"{len(golden)} of {len(golden)} token for token")
    first = wrong[0]
    token = _first_difference(answers[first], recorded[first])
    return Check(
        "golden answers",
        False,
        f"{len(wrong)} of {len(golden)} differ; the first is {golden[first]['question']!r}, from token {token + 1} on",
    )


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
