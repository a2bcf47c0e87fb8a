"""Mode `clean`: old runs, versions that no alias points at, and what killed commands left.

What stays is decided here; how it is removed is in `store/maintenance/trash.py`.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import Busy, TrackingUnavailable
from genai_lifecycle.evaluation import answer_cache
from genai_lifecycle.runtime import progress
from genai_lifecycle.runtime.lock import only_run
from genai_lifecycle.runtime.scratch import PREFIX
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.maintenance import inventory, trash
from genai_lifecycle.store.maintenance.files_in_use import FilesInUse
from genai_lifecycle.store.maintenance.inventory import CLEANED_TAG, Model, Run, Version
from genai_lifecycle.store.tracking_store import Store, absolute


@dataclass(frozen=True)
class CleanSettings(Settings):
    """What stays whatever else goes."""

    older_than_days: int = setting(
        30, "younger ones stay", flag="--older-than", metavar="DAYS", limits=(0, 36_500)
    )  # fmt: skip
    keep: int = setting(5, "the newest N of each kind stay, however old", metavar="N", limits=(0, 36_500))
    apply: bool = setting(False, "remove it instead of showing what would be removed")


@dataclass(frozen=True)
class Disposal:
    """One thing that `clean` removes, or would remove."""

    kind: str  # version | model | run | scratch
    name: str
    why: str
    size_bytes: int


@dataclass(frozen=True)
class Cleaning:
    """What `clean` found, and what it removed (nothing without --apply)."""

    disposals: tuple[Disposal, ...]
    removed: int
    kept: str  # a sentence about what stays, and why
    note: str = ""  # what somebody else has to do

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.disposals)


log = logging.getLogger(__name__)

DAY_MS = 86_400_000
IN_TRASH = "They are in the server's trash; its operator frees the space with: mlflow gc --backend-store-uri ..."
EVALUATION = "evaluate"  # the stage of a run that has one prompt over one case file
VERSION_TAG = "lifecycle.version"  # of a test's run: the version that it tested


@dataclass(frozen=True)
class Contents:
    """What the experiment and the registered model have, newest first."""

    runs: Sequence[Run]  # with the model's evaluations, which have experiments of their own
    versions: Sequence[Version]  # of our registered model
    other_versions: Sequence[Version]  # of every other one
    models: Sequence[Model]  # of our experiment
    other_models: Sequence[Model]  # of every other one

    @cached_property
    def children(self) -> Mapping[str, list[Run]]:
        """Nested runs by their parent, where that is still there; the others stand alone."""
        known, found = {run.run_id for run in self.runs}, {}
        for run in self.runs:
            if run.parent in known:
                found.setdefault(run.parent, []).append(run)
        return found

    @cached_property
    def roots(self) -> list[Run]:
        nested = {child.run_id for family in self.children.values() for child in family}
        return [run for run in self.runs if run.run_id not in nested]

    def family(self, run: Run) -> Iterator[Run]:
        """A run after all that is nested in it."""
        for child in self.children.get(run.run_id, ()):
            yield from self.family(child)
        yield run


@dataclass(frozen=True)
class Selection:
    """What goes."""

    versions: Sequence[Version]
    own_models: Sequence[Model]  # of these versions
    models: Sequence[Model]  # that no version has
    runs: Sequence[Run]  # children before their parents
    spared: int = 0  # logged models and families of runs that stay for their files' sake


def clean(config: E2EConfig, store: Store, settings: CleanSettings) -> Cleaning:
    """Find what may go, and remove it when `settings.apply` is set.

    Never a version with an alias, nor the runs and traces that it came from, nor files that are not below the artifact
    root. Everything is removed in an order that leaves nothing half usable: killed at any moment, the same command
    goes on.

    Raises:
        Busy: another run works on the store (the caller holds the lock).
        TrackingUnavailable, StorageFailed: the store stopped answering; what was removed until then is gone.
    """
    if settings.apply:
        _settle(config)
    contents = _read(config, store)
    selection = _select(config, store, settings, contents)
    scratch = _abandoned(config, settings)
    disposals = (
        *[Disposal("scratch", str(path), why, _bytes(path)) for path, why in scratch],
        *[_of_version(contents, version, selection) for version in selection.versions],
        *[_of_model(model) for model in selection.models],
        *[_of_run(run) for run in selection.runs],
    )
    removed = 0
    if settings.apply and disposals:
        with progress.steps("Removing", len(disposals)) as advance:
            paths = [path for path, _ in scratch]
            for gone in _removals(config, store, contents, paths, selection):
                removed += gone
                advance(1)
    return Cleaning(disposals, removed, _kept(settings, contents, selection), "" if store.direct else IN_TRASH)


def _settle(config: E2EConfig) -> None:
    """A version may be without its alias where a rollback was killed in the middle."""
    model_registry.settle(config.registered_model_name)
    with suppress(TrackingUnavailable):  # a server that keeps no prompts; where it is gone, the next call says so
        for prompt in registry.all_prompts():
            registry.settle(prompt.name)


def _read(config: E2EConfig, store: Store) -> Contents:
    every = inventory.versions()
    ours = [store.experiment_id] if store.experiment_id else []
    found = [*inventory.runs(*ours), *inventory.evaluations(config.registered_model_name)]
    models = inventory.models(*[place.experiment_id for place in inventory.experiments()])
    return Contents(
        runs=sorted({run.run_id: run for run in found}.values(), key=lambda run: -run.started_ms),
        versions=[version for version in every if version.name == config.registered_model_name],
        other_versions=[version for version in every if version.name != config.registered_model_name],
        models=[model for model in models if model.experiment_id in ours],
        other_models=[model for model in models if model.experiment_id not in ours],
    )


def _select(config: E2EConfig, store: Store, settings: CleanSettings, contents: Contents) -> Selection:
    """What goes: what is old enough, but for files that are not ours or that anything has which stays.

    What stays for that reason may in its turn have files of something else.
    """
    versions = _old_versions(settings, contents)
    staying = [version for version in contents.versions if version not in versions]
    own = [model for version in versions if (model := _own_model(contents, version))]
    models = _models_without_version(settings, contents)
    families = _old_families(settings, contents, _protected(contents, staying))
    spared = 0
    while True:
        selection = Selection(versions, own, models, [run for family in families for run in family], spared)
        files = _files_in_use(config, store, contents, selection)
        before = len(own) + len(models) + len(families)
        own = [model for model in own if files.may_remove(model.location)]
        models = [model for model in models if files.may_remove(model.location)]
        families = [family for family in families if all(files.may_remove(run.location) for run in family)]
        spared += before - len(own) - len(models) - len(families)
        if spared == selection.spared:
            return selection


def _files_in_use(config: E2EConfig, store: Store, contents: Contents, selection: Selection) -> FilesInUse:
    """Those of every version, run and logged model that stays."""
    gone = {version.uri for version in selection.versions} | {run.run_id for run in selection.runs}
    gone |= {model.model_id for model in (*selection.own_models, *selection.models)}
    versions = [version for version in (*contents.versions, *contents.other_versions) if version.uri not in gone]
    models = [model for model in (*contents.models, *contents.other_models) if model.model_id not in gone]
    runs = [run for run in contents.runs if run.run_id not in gone]
    addresses = [item.location for item in (*versions, *models, *runs)] + [version.source for version in versions]
    return FilesInUse(absolute(config.data_dir) if store.direct else None, addresses)


def _is_old(settings: CleanSettings, since_ms: int) -> bool:
    return since_ms <= time.time() * 1000 - settings.older_than_days * DAY_MS


# --- versions and models --------------------------------------------------------------------------


def _old_versions(settings: CleanSettings, contents: Contents) -> list[Version]:
    """Without an alias, old enough, not among the newest, and not the source of a version that stays."""
    nameless = [version for version in contents.versions if not version.aliases]
    sources = {version.source for version in (*contents.versions, *contents.other_versions)}
    return [
        version
        for version in nameless[settings.keep :]
        if _is_old(settings, version.created_ms) and version.uri not in sources
    ]


def _models_without_version(settings: CleanSettings, contents: Contents) -> list[Model]:
    """Left by a deploy, or by a `clean`, that was killed. A version that goes takes its own model with it."""
    used = {version.model_id for version in (*contents.versions, *contents.other_versions)}
    running = {run.run_id for run in contents.runs if run.status == "RUNNING" and not run.is_left_open}
    return [
        model
        for model in contents.models
        if model.model_id not in used and model.run_id not in running and _is_old(settings, model.created_ms)
    ]


def _own_model(contents: Contents, version: Version) -> Model | None:
    """The logged model of a version, unless another version has it too."""
    sharing = [other for other in (*contents.versions, *contents.other_versions) if other.model_id == version.model_id]
    own = [model for model in contents.models if model.model_id == version.model_id]
    return own[0] if own and len(sharing) == 1 else None


# --- runs -----------------------------------------------------------------------------------------


def _protected(contents: Contents, staying: Sequence[Version]) -> set[str]:
    """The runs that a version which stays came from, was tested in, or names; the newest finished experiment; and what
    the gate and the monitor know of the prompts in use. Every version of another model stays."""
    every = (*staying, *contents.other_versions)
    named = {value for version in every for value in (version.run_id, version.source_run_id, *version.tags.values())}
    numbers = {version.version for version in staying}
    seeds = [run for run in contents.runs if run.run_id in named or run.tags.get(VERSION_TAG) in numbers]
    seeds += [found for version in staying if (found := _experiment_of(contents, version))]
    seeds += [run for run in contents.roots if run.stage == "experiment" and run.status == "FINISHED"][:1]
    seeds += _evaluations_in_use(contents, staying)
    roots = {run.parent or run.run_id for run in seeds} | {run.run_id for run in seeds}
    return {member.run_id for run in contents.runs if run.run_id in roots for member in contents.family(run)}


def _experiment_of(contents: Contents, version: Version) -> Run | None:
    """The nested run in which the version's prompt won on its weights: the last one before it was registered."""
    wanted = {name: version.tags.get(name) for name in ("prompt", "weights_sha256")}
    found = (
        run
        for run in contents.runs
        if run.stage == EVALUATION
        and run.parent
        and run.started_ms <= version.created_ms
        and all(run.params.get(name) == value for name, value in wanted.items())
    )
    return next(found, None)


def _evaluations_in_use(contents: Contents, staying: Sequence[Version]) -> list[Run]:
    """The newest finished evaluation of each prompt version that has an alias, or is frozen in a version that stays."""
    numbers = {version.version for version in staying}
    prompts = _prompts_with_an_alias() | {version.tags.get("prompt", "") for version in staying}
    newest: dict[tuple[str, str], Run] = {}
    for run in contents.runs:
        if run.stage == EVALUATION and run.status == "FINISHED":
            newest.setdefault((run.params.get("prompt", ""), run.params.get("model_version", "")), run)
    return [run for (prompt, number), run in newest.items() if prompt in prompts and number in numbers]


def _prompts_with_an_alias() -> set[str]:
    try:
        return {f"{prompt.name}/{number}" for prompt in registry.all_prompts() for number in prompt.aliases.values()}
    except TrackingUnavailable:  # a server that keeps no prompts; where it is gone, the next call says so
        return set()


def _old_families(settings: CleanSettings, contents: Contents, protected: Collection[str]) -> list[list[Run]]:
    """Runs with what is nested in them, children first: of each stage the newest ones stay, and all that is protected.

    Evaluations count by experiment, which is to say by prompt.
    """
    chosen: list[list[Run]] = []
    seen: dict[tuple[str, str], int] = {}
    for root in contents.roots:
        family = list(contents.family(root))
        begun = any(CLEANED_TAG in run.tags for run in family)
        if root.in_trash and not begun:  # somebody else's trash
            continue
        kind = (root.experiment_id, root.stage)
        seen[kind] = seen.get(kind, 0) + 1
        under_way = any(run.status == "RUNNING" and not run.is_left_open for run in family)
        spared = under_way or any(run.run_id in protected for run in family)
        old = _is_old(settings, root.started_ms) and seen[kind] > settings.keep
        if not spared and (begun or old):
            chosen.append([run for run in family if not run.in_trash or CLEANED_TAG in run.tags])
    return chosen


# --- what killed commands left --------------------------------------------------------------------


def _abandoned(config: E2EConfig, settings: CleanSettings) -> list[tuple[Path, str]]:
    """Scratch folders that nobody holds the lock of, and old answers of evaluations that nobody took up again.

    A bundle that was never finished is export's own.
    """
    places = sorted(config.staging_dir.glob(f"{PREFIX}*"))
    folders = [(path, "left by a command that was killed") for path in places if path.is_dir() and _is_free(path)]
    caches = [
        (path, int(path.stat().st_mtime * 1000)) for path in sorted(answer_cache.folder(config.staging_dir).glob("*"))
    ]
    old = [(path, since_ms) for path, since_ms in caches if _is_old(settings, since_ms)]
    return folders + [(path, f"an evaluation that was not ended, from {_day(since_ms)}") for path, since_ms in old]


def _bytes(path: Path) -> int:
    return inventory.folder_bytes(path) if path.is_dir() else path.stat().st_size


def _is_free(folder: Path) -> bool:
    try:
        with only_run(folder):
            return True
    except Busy:
        return False


# --- removing -------------------------------------------------------------------------------------


def _removals(
    config: E2EConfig, store: Store, contents: Contents, scratch: Sequence[Path], selection: Selection
) -> Iterator[bool]:
    """Each step removes one thing, and says whether it did. A version that has got an alias since stays, whole.

    Versions go first, so that none is ever left whose files are gone.
    """
    for path in scratch:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        yield not path.exists()
    for version in selection.versions:
        named = model_registry.remove_unless_named(version.name, version.version)
        if named:
            log.warning("%s has the alias %s now, and stays.", version.uri, named[0])
        yield not named
    now = _read(config, store)
    files = _files_in_use(config, store, now, replace(selection, versions=()))
    for model in selection.own_models:
        if files.may_remove(model.location):
            trash.remove_model(store, model)
    for model in selection.models:
        if is_unused := files.may_remove(model.location):
            trash.remove_model(store, model)
        yield is_unused
    protected = _protected(now, now.versions)
    for run in selection.runs:
        if may_go := run.run_id not in protected and files.may_remove(run.location):
            trash.remove_run(store, run)
        yield may_go


# --- in words -------------------------------------------------------------------------------------


def _of_version(contents: Contents, version: Version, selection: Selection) -> Disposal:
    """With its files, or without those that are not its own."""
    why, name = f"no alias, from {_day(version.created_ms)}", f"{version.name} {version.version}"
    if _own_model(contents, version) in selection.own_models:
        return Disposal("version", name, why, inventory.size_bytes(version.location))
    return Disposal("version", name, f"{why}; its files stay", 0)


def _of_model(model: Model) -> Disposal:
    why = f"no version has it, from {_day(model.created_ms)}"
    return Disposal("model", model.model_id, why, inventory.size_bytes(model.location))


def _of_run(run: Run) -> Disposal:
    begun = ", removal was begun" if CLEANED_TAG in run.tags else ""
    why = f"{run.stage or 'run'} {run.name!r} from {_day(run.started_ms)}{begun}"
    return Disposal("run", run.run_id, why, inventory.size_bytes(run.location))


def _day(since_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(since_ms / 1000))


def _kept(settings: CleanSettings, contents: Contents, selection: Selection) -> str:
    staying = [version for version in contents.versions if version not in selection.versions]
    named = [f"version {version.version} ({', '.join(version.aliases)})" for version in staying if version.aliases]
    aliases = f"; with an alias: {', '.join(named)}, with the runs and traces they came from" if named else ""
    files = f"; {selection.spared} whose files are not ours or not theirs alone" if selection.spared else ""
    return (
        f"Stays: the newest {settings.keep} of each kind, what is younger than {settings.older_than_days} days"
        f"{aliases}{files}."
    )
