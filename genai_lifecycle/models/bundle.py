"""Writes the bundle: model, serving code, lock and Docker files as one folder with a manifest. Imports no server.

Which version is exported, and whether it may be, is decided in `stages/export.py`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genai_lifecycle.config import CHECKOUT, IS_CHECKOUT
from genai_lifecycle.errors import BundleError, Busy
from genai_lifecycle.models.fingerprint import file_sha256
from genai_lifecycle.runtime.lock import LOCK_FILE, only_run
from genai_lifecycle.runtime.machine import free_bytes, why_not_writable

log = logging.getLogger(__name__)

PACKAGE = CHECKOUT / "demo_serving" / "package"  # Dockerfile, scripts, lock: copied as they are
SERVER_FILES = ("fastapi_server.py", "genai_server")
MANIFEST, FORMAT = "manifest.json", 1
REPLACED = "replaced"  # where what had the name before waits until the new bundle has it
NEEDED_OF_PACKAGE = ("Dockerfile", "requirements.lock", "openapi.json", "build.sh", "run.sh", "test.sh")
SERVER_BYTES, WHEELS_BYTES = 50_000_000, 400_000_000  # room for what is added to the model, generously
WHEELS_TIMEOUT_S = 1800
WHEELS_PYTHON = ("Linux", "3.11")  # of the image
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache", ".ruff_cache", ".env", ".DS_Store")


def write(
    model: Path,
    target: Path,
    identity: Mapping[str, Any],
    *,
    overwrite: bool = False,
    keep: Sequence[Path] = (),
    wheels: bool = False,
) -> dict[str, Any]:
    """Write the bundle of the model folder `model` (which is moved into it); returns its manifest.

    Everything is made in a folder beside `target` that takes its name when all is there. A bundle that nobody has
    changed since it was written is replaced.

    Args:
        identity: what the manifest says of the version.
        overwrite: replace a bundle that was changed, or a folder that is none, too.
        keep: folders of which nothing is overwritten.
        wheels: with the wheels of the lock, from the package index.

    Raises:
        BundleError: it cannot be written there, the wheels cannot be had, or the checkout is not whole.
    """
    check_target(target, overwrite=overwrite, keep=keep)
    target = target.resolve()
    with told_as_bundle_errors(target), _part_folder(target) as part:
        shutil.move(model, part / "model")
        _copy_server(part / "serving")
        _copy_package(part)
        if wheels:
            _fetch_wheels(part)
        _drop_compiled(part)
        manifest = _manifest(part, identity)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
        _set_modes(part)
        check_target(target, overwrite=overwrite, keep=keep)  # it may have been changed meanwhile
        _put_in_place(part, target)
    return manifest


# --- the place ------------------------------------------------------------------------------------


def check_target(target: Path, *, overwrite: bool = False, keep: Sequence[Path] = ()) -> None:
    """Raises BundleError unless a bundle may take the name `target`: what is there is ours and as we left it, or may
    be overwritten; and the folder above can be written.

    Args:
        keep: folders of which nothing is overwritten; nor is one that holds this checkout, the home or the current one.
    """
    with told_as_bundle_errors(target):
        copied = [CHECKOUT / "genai_server", PACKAGE]
        if any(target.resolve().is_relative_to(folder) for folder in copied):
            raise BundleError(f"{target} is inside a folder that is copied into the bundle.", hint=_ELSEWHERE)
        if target.exists() and not target.is_dir():
            raise BundleError(f"{target} is a file, and the bundle is a folder.", hint=_ELSEWHERE)
        _require_writable(target)
        reason = _in_the_way(target)
        if reason and not overwrite:
            hint = "--overwrite replaces it with all that is in it; --output-dir chooses another folder."
            raise BundleError(reason, hint=hint)
        if reason:
            _require_nothing_to_keep(target.resolve(), keep)


_ELSEWHERE = "Choose another folder with --output-dir."


def _require_writable(target: Path) -> None:
    for folder in [target.resolve().parent, *([target] if target.exists() else [])]:
        if why := why_not_writable(folder):
            raise BundleError(f"No bundle can be written to {target}: {why}.", hint=_ELSEWHERE)


def _in_the_way(target: Path) -> str:
    """What in `target` is not the work of an export, as a sentence; empty where there is nothing of the kind."""
    found = sorted(target.iterdir()) if target.exists() else []
    if not found:
        return ""
    manifest = read_manifest(target)
    if manifest is None:
        return f"{target} is not empty, and what is in it is no bundle: {found[0].name}."
    change = _first_change(target, manifest["files"])
    who = f"{manifest['model'].get('name')} version {manifest['model'].get('version')}"
    return change and f"The bundle in {target} ({who}) was changed since it was written: {change}."


def _first_change(folder: Path, files: Mapping[str, str]) -> str:
    """The first file, by its path, that is not as the manifest has it; empty where there is none."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not _is_nobodys(path)}
    del paths[MANIFEST]
    for name in sorted(paths.keys() | files.keys()):
        if name not in files:
            return f"{name} was added"
        if name not in paths:
            return f"{name} is gone"
        if paths[name].is_symlink() or not paths[name].is_file() or file_sha256(paths[name]) != files[name]:
            return f"{name} was edited"
    return ""


def _is_nobodys(path: Path) -> bool:
    """A folder, of which only the files count; or what Python and file managers leave wherever they pass."""
    return (path.is_dir() and not path.is_symlink()) or path.name == ".DS_Store" or path.parent.name == "__pycache__"


def _require_nothing_to_keep(target: Path, keep: Sequence[Path]) -> None:
    for folder in (CHECKOUT, Path(os.path.expanduser("~")), Path.cwd(), *keep):
        if folder.resolve().is_relative_to(target):
            raise BundleError(f"{target} is not overwritten: it holds {folder}.", hint=_ELSEWHERE)
    for folder in keep:
        if target.is_relative_to(folder.resolve()):
            raise BundleError(f"{target} is not overwritten: it is in {folder}.", hint=_ELSEWHERE)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the bundle in `folder`; None where there is none of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        return None
    return manifest if all(isinstance(manifest.get(name), dict) for name in ("model", "files")) else None


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises BundleError when less than that is free where `folder` is, or will be."""
    with told_as_bundle_errors(folder):
        _, free = free_bytes(folder.resolve())
    if free < needed_bytes:
        raise BundleError(
            f"Only {free / 1e6:.0f} MB are free at {folder}; the export needs {needed_bytes / 1e6:.0f} MB.",
            hint="Free some space there; --output-dir chooses where the bundle goes.",
        )


@contextmanager
def told_as_bundle_errors(target: Path) -> Iterator[None]:
    """A path that cannot be read or written becomes a BundleError."""
    try:
        yield
    except OSError as exc:
        what = exc.filename2 or exc.filename or target
        raise BundleError(
            f"The bundle cannot be written: {what}: {exc.strerror or exc}.",
            hint="Make the place writable and large enough, or choose another one with --output-dir.",
        ) from exc


@contextmanager
def _part_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, gone at the end; what a killed export of the same target left goes first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.part-"
    _sweep(target, prefix)
    own = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    try:
        with only_run(own):
            part = own / target.name
            part.mkdir()
            yield part
    finally:
        _remove(own)


def _sweep(target: Path, prefix: str) -> None:
    """What was about to be replaced gets its name back first."""
    for left in target.parent.glob(f"{prefix}*"):
        if not (left / LOCK_FILE).is_file():
            continue  # not made by us
        try:
            with only_run(left):
                if (left / REPLACED).exists() and not target.exists():
                    (left / REPLACED).rename(target)
                _remove(left)
        except Busy:
            continue


def _remove(own: Path) -> None:
    """The file by which `_sweep` knows the folder as ours goes last, should this be killed."""
    for path in own.iterdir():
        if path.name != LOCK_FILE:
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(own, ignore_errors=True)


def _put_in_place(part: Path, target: Path) -> None:
    """Give the finished folder its name; what had it before goes only then, and comes back when that fails."""
    replaced = part.parent / REPLACED
    if target.exists():
        target.rename(replaced)
    try:
        part.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise


# --- what is in it --------------------------------------------------------------------------------


def _copy_server(serving: Path) -> None:
    serving.mkdir()
    for name in SERVER_FILES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, serving / name, ignore=_LEFT_OUT)
        else:
            shutil.copy(source, serving / name)


def _copy_package(part: Path) -> None:
    missing = [name for name in NEEDED_OF_PACKAGE if not (PACKAGE / name).is_file()]
    if missing:
        raise BundleError(
            f"This checkout has no {PACKAGE.relative_to(PACKAGE.parents[1]) / missing[0]}.",
            hint="Get a whole checkout (git status shows what is missing) and export again.",
        )
    shutil.copytree(PACKAGE, part, ignore=_LEFT_OUT, dirs_exist_ok=True)


def _fetch_wheels(part: Path) -> None:
    """Every wheel of the lock, checked against its hashes. Raises BundleError."""
    here = (platform.system(), ".".join(platform.python_version_tuple()[:2]))
    if here != WHEELS_PYTHON:
        raise BundleError(
            f"pip would fetch wheels for {' '.join(here)}, and the image runs {' '.join(WHEELS_PYTHON)}.",
            hint="Export with --wheels on such a machine, or without it; build.sh then fetches them itself.",
        )
    log.info("Fetching the wheels of requirements.lock.")
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
        "--quiet", "--only-binary", ":all:", "--require-hashes", "-r", "requirements.lock", "-d", "wheels",
    ]  # fmt: skip
    done = _run(command, part, "pip download", WHEELS_TIMEOUT_S)
    if done.returncode != 0:
        raise BundleError(
            f"The wheels could not be fetched: {_last_error(done.stderr)}",
            hint="Is the package index reachable (pip's own settings apply)? Without --wheels, build.sh fetches them.",
        )


def _run(command: list[str], folder: Path, what: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as exc:
        raise BundleError(f"There was no end to {what} within {timeout_s:.0f} s.", hint="Try again.") from exc


def _last_error(stderr: str) -> str:
    """The line that says why: pip's first ERROR, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if line.startswith("ERROR:")), lines[-1]).removeprefix("ERROR:").strip()


def _drop_compiled(part: Path) -> None:
    """What Python left in the model's folder in the store would make two exports differ."""
    for cache in list(part.rglob("__pycache__")):
        shutil.rmtree(cache)


def _set_modes(part: Path) -> None:
    """Readable for the image's user whatever our umask is; scripts stay executable."""
    part.chmod(0o755)
    for path in part.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _manifest(part: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    paths = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        **identity,
        "git_commit": _git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": {path: file_sha256(part / path) for path in paths},
    }


def _git_commit() -> str | None:
    """The checkout's commit, with `-dirty` where files differ from it; None where there is no git, or no checkout."""
    if not IS_CHECKOUT:  # packages may stand in another project's checkout
        return None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    except OSError:
        return None
    return done.stdout.strip() or None
