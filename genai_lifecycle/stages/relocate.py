"""Mode `relocate`: artifacts have moved to another folder or bucket, and MLflow is told. It moves no file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, NotFound
from genai_lifecycle.runtime.addresses import without_password
from genai_lifecycle.runtime.s3_address import S3Root, is_s3
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store.maintenance import locations
from genai_lifecycle.store.maintenance.locations import MovedColumn, Prefix
from genai_lifecycle.store.store_lock import only_run_on


def _place(name: str, value: str) -> str:
    if not value.strip("/. "):
        raise ConfigError(f"{name} is {value!r}.", hint="Name a folder below the root, or s3://BUCKET/PREFIX.")
    if "://" in value and not is_s3(value):
        raise ConfigError(f"{name} is {without_password(value)!r}.", hint="Use a folder, or s3://BUCKET/PREFIX.")
    return value


@dataclass(frozen=True)
class RelocateSettings(Settings):
    """From where to where."""

    move_from: str | None = setting(
        None, "where the artifacts were: a folder, or s3://BUCKET/PREFIX", flag="--from", metavar="OLD", check=_place
    )
    move_to: str | None = setting(
        None, "where they are now: a folder, or s3://BUCKET/PREFIX", flag="--to", metavar="NEW", check=_place
    )
    allow_missing: bool = setting(False, "rewrite although some models are not at the new place")
    apply: bool = setting(False, "rewrite the addresses instead of showing what would be rewritten")


@dataclass(frozen=True)
class Relocation:
    """What `relocate` found, and what it changed (nothing without --apply)."""

    old: str
    new: str
    columns: tuple[MovedColumn, ...]
    changed: int  # addresses
    backup: str | None  # the copy of the database from before
    missing: tuple[str, ...]  # models that are not at the new place; only with --allow-missing


log = logging.getLogger(__name__)


def relocate(config: E2EConfig, settings: RelocateSettings) -> Relocation:
    """Rewrite every address below `move_from` to `move_to`; with `apply`, else only count them.

    All in one transaction, after a copy of the database (SQLite). What is at the new place already stays, so the
    same command can be given again.

    Raises:
        ConfigError: a flag is missing, or a server keeps the addresses.
        NotFound: no database, nothing at the new place, or a model that is not there.
        Busy: another run, or another program, works on the store.
        StorageFailed: the database cannot be copied or changed; it is as it was then.
    """
    _require_no_server(config)
    old, new = _places(settings)
    forms = [form for place in old for form in locations.prefixes(place, new)]
    _require_place(config, new)
    columns, missing = _look(config, settings, forms)
    if not settings.apply or not columns:
        return Relocation(old[0], new, columns, 0, None, missing)
    with only_run_on(config.database_uri):
        backup = locations.back_up(config.database_uri)
        columns, missing, changed = _rewrite(config, settings, forms)
    return Relocation(old[0], new, columns, changed, str(backup) if backup else None, missing)


def _look(
    config: E2EConfig, settings: RelocateSettings, forms: Sequence[Prefix]
) -> tuple[tuple[MovedColumn, ...], tuple[str, ...]]:
    """What would be rewritten, and the missing models: without a lock, and without a copy of the database."""
    with locations.opened(config.database_uri) as database:
        return tuple(database.below(forms)), _missing(database.of_models(forms), allowed=settings.allow_missing)


def _rewrite(
    config: E2EConfig, settings: RelocateSettings, forms: Sequence[Prefix]
) -> tuple[tuple[MovedColumn, ...], tuple[str, ...], int]:
    with locations.opened(config.database_uri) as database:
        columns = tuple(database.below(forms))
        missing = _missing(database.of_models(forms), allowed=settings.allow_missing)
        return columns, missing, database.rewrite(forms)


def _require_no_server(config: E2EConfig) -> None:
    if config.tracking_uri and config.tracking_uri.startswith("http"):
        raise ConfigError(
            "The addresses are in the database, and --tracking-uri names a server in front of it.",
            hint="Stop the server, and name its database: --mode relocate --backend-store-uri ... A server with "
            "--artifacts-destination needs no relocation: start it with the new place.",
        )


# --- the two places -------------------------------------------------------------------------------


def _places(settings: RelocateSettings) -> tuple[list[str], str]:
    """(the old place as it may stand in the database, the new one). Raises ConfigError."""
    if not settings.move_from or not settings.move_to:
        raise ConfigError(
            "--mode relocate needs the place where the artifacts were and the one where they are.",
            hint="--from OLD --to NEW, each a folder or s3://BUCKET/PREFIX.",
        )
    old, new = _forms_of(settings.move_from), _forms_of(settings.move_to)[-1]
    if new in old:
        raise ConfigError("--from and --to name the same place.", hint="Give the place where the artifacts are now.")
    return old, new


def _forms_of(place: str) -> list[str]:
    """As typed, and without links and dots, as this program writes a folder; one form where both are the same."""
    if is_s3(place):
        return [_s3_address(place)]
    typed = os.path.abspath(Path(place).expanduser())
    return list(dict.fromkeys([typed, str(Path(typed).resolve())]))


def _s3_address(place: str) -> str:
    try:
        return str(S3Root.parse(place))
    except ValueError as exc:
        raise ConfigError(f"No address in S3: {exc}.", hint="Use s3://BUCKET/PREFIX, without keys in it.") from None


def _require_place(config: E2EConfig, new: str) -> None:
    """Raises NotFound for a folder that is not there, StorageFailed for a store that does not work."""
    if is_s3(new):
        from genai_lifecycle.store.s3.preflight import open_root

        open_root(S3Root.parse(new), config.s3_endpoint_url, config.s3_access_key, config.s3_secret_key, writes=False)
    elif not Path(new).is_dir():
        raise NotFound(
            f"There is no folder {new}.",
            hint="Move the artifacts first (mv, or aws s3 sync), then tell MLflow with this command.",
        )


def _missing(addresses: Sequence[str], *, allowed: bool) -> tuple[str, ...]:
    """The models that are not at their new address; raises NotFound for them unless they may be missing."""
    missing = tuple(address for address in addresses if not locations.has_model(address))
    if missing and not allowed:
        raise NotFound(
            f"{len(missing)} of {len(addresses)} models are not at the new place, for example {missing[0]}.",
            hint="Nothing was changed. Move all files first, check --from and --to; --allow-missing goes on without.",
        )
    return missing
