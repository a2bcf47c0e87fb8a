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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genai_lifecycle.config import CHECKOUT, IS_CHECKOUT
from genai_lifecycle.errors import BundleError, Busy, ExportDeclined
from genai_lifecycle.fingerprint import file_sha256
from genai_lifecycle.lock import LOCK_FILE, only_run
from genai_lifecycle.machine import free_bytes

log = logging.getLogger(__name__)

PACKAGE = CHECKOUT / "demo_serving" / "package"  # Dockerfile, scripts, lock: copied as they are
SERVER_FILES = ("fastapi_server.py", "genai_server")
MANIFEST, FORMAT = "manifest.json", 1
REPLACED = "replaced"  # where the bundle before waits until the new one has its name
NEEDED_OF_PACKAGE = ("Dockerfile", "requirements.lock", "openapi.json", "build.sh", "run.sh", "test.sh")
SERVER_BYTES, WHEELS_BYTES = 50_000_000, 400_000_000  # room for what is added to the model, generously
WHEELS_TIMEOUT_S = 1800
WHEELS_PYTHON = ("Linux", "3.11")  # of the image
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".pytest_cache", ".ruff_cache", ".env", ".DS_Store")


def write(
    model: Path, target: Path, identity: Mapping[str, Any], *, force: bool = False, wheels: bool = False
) -> dict[str, Any]:
    """Write the bundle of the model folder `model` (which is moved into it); returns its manifest.

    Everything is made in a folder beside `target` that takes its name when all is there.

    Args:
        identity: what the manifest says of the version.
        force: replace the bundle that is at `target`.
        wheels: with the wheels of the lock, from the package index.

    Raises:
        ExportDeclined: another bundle is there, and `force` is off.
        BundleError: it cannot be written there, the wheels cannot be had, or the checkout is not whole.
    """
    check_target(target, force=force)
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
        _put_in_place(part, target, force=force)
    return manifest


# --- the place ------------------------------------------------------------------------------------


def check_target(target: Path, *, force: bool) -> None:
    """Raises ExportDeclined where a bundle is in the way, BundleError where something else is."""
    with told_as_bundle_errors(target):
        copied = [CHECKOUT / "genai_server", PACKAGE]
        if any(target.resolve().is_relative_to(folder) for folder in copied):
            raise BundleError(f"{target} is inside a folder that is copied into the bundle.", hint=_ELSEWHERE)
        if target.exists() and not target.is_dir():
            raise BundleError(f"{target} is a file, and the bundle is a folder.", hint=_ELSEWHERE)
        if not target.exists() or not any(target.iterdir()):
            return
        there = read_manifest(target)
    if there is None:
        raise BundleError(f"{target} is not empty, and what is in it is no bundle.", hint=_ELSEWHERE)
    if not force:
        model = there["model"]
        raise ExportDeclined(
            f"{target} holds a bundle already ({model.get('name')} version {model.get('version')}).",
            hint="Replace it with --force, or choose another folder with --output-dir.",
        )


_ELSEWHERE = "Choose another folder with --output-dir; --force replaces bundles only."


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the bundle in `folder`; None where there is none of ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    ours = isinstance(manifest, dict) and isinstance(manifest.get("format"), int)
    return manifest if ours and {"model", "files"} <= manifest.keys() and isinstance(manifest["model"], dict) else None


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
        shutil.rmtree(own, ignore_errors=True)


def _sweep(target: Path, prefix: str) -> None:
    """A bundle that was about to be replaced gets its name back first."""
    for left in target.parent.glob(f"{prefix}*"):
        if not (left / LOCK_FILE).is_file():
            continue  # not made by us
        try:
            with only_run(left):
                if (left / REPLACED).exists() and not target.exists():
                    (left / REPLACED).rename(target)
                shutil.rmtree(left, ignore_errors=True)
        except Busy:
            continue


def _put_in_place(part: Path, target: Path, *, force: bool) -> None:
    """Give the finished folder its name; the bundle before it goes only then, and comes back when that fails."""
    check_target(target, force=force)
    replaced = part.parent / REPLACED
    if read_manifest(target) is not None:
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
