"""The bundle on disk: what is in it, the same twice, nothing half written, nothing of others overwritten."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import REPO

from genai_lifecycle.errors import BundleError
from genai_lifecycle.models import bundle
from genai_lifecycle.runtime.lock import LOCK_FILE

IDENTITY = {"model": {"name": "m", "version": "3", "alias": None, "uri": "models:/m/3"}, "image": "m:3"}
PACKAGE = {
    "Dockerfile": "FROM scratch\n", ".dockerignore": "wheels\n", "requirements.lock": "# nothing\n",
    "openapi.json": "{}\n", "build.sh": "#!/bin/sh\n", "run.sh": "#!/bin/sh\n", "test.sh": "#!/bin/sh\n",
    ".env.example": "PORT=8000\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A small demo_serving/package, with what a developer may have left in it."""
    folder = tmp_path_factory.mktemp("demo_serving") / "package"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "test_bundle.pyc").write_bytes(b"x")
    (folder / ".env").write_text("API_KEYS=secret")
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    return folder


@pytest.fixture
def described(monkeypatch, package):
    """The small package in the place of the real one."""
    monkeypatch.setattr(bundle, "PACKAGE", package)


def make_model(folder: Path) -> Path:
    (folder / "artifacts").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "artifacts" / "prompt.json").write_text("{}")
    (folder / "artifacts" / "__pycache__").mkdir()
    (folder / "artifacts" / "__pycache__" / "left.pyc").write_bytes(b"by a server that loaded it")
    return folder


@pytest.fixture
def write(tmp_path, described):
    """Writes a bundle of a new small model folder to tmp_path/out, or to where it is told."""

    def call(target: Path = tmp_path / "out", **flags):
        folder = make_model(tmp_path / f"model{len(list(tmp_path.iterdir()))}")
        return bundle.write(folder, target, IDENTITY, **flags)

    return call


def raising(error: Exception):
    def call(*given):
        raise error

    return call


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_told(error, sentence: str) -> None:
    assert re.search(sentence, error.value.args[0]), error.value
    assert error.value.hint and error.value.exit_code == 5


# --- what is in it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(package, tmp_path_factory) -> Path:
    """A bundle with the real server."""
    base = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "PACKAGE", package)
        bundle.write(make_model(base / "model"), base / "exported_model", IDENTITY)
    return base / "exported_model"


def test_the_serving_code_is_the_checkouts_byte_for_byte(whole):
    copied = tree(whole / "serving")
    assert {
        "fastapi_server.py",
        "genai_server/http/app.py",
        "genai_server/static/swagger/swagger-ui.css",
    } <= copied.keys()
    assert all((REPO / name).read_bytes() == content for name, content in copied.items())
    ours = {path.relative_to(REPO).as_posix() for path in (REPO / "genai_server").rglob("*") if path.is_file()}
    assert {name for name in ours if "__pycache__" not in name} == copied.keys() - {"fastapi_server.py"}


def test_the_manifest_has_the_hash_of_every_file_but_itself(whole):
    manifest = json.loads((whole / "manifest.json").read_text("utf-8"))
    files = tree(whole)
    del files["manifest.json"]
    assert manifest["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    assert manifest["format"] == 1 and manifest["image"] == "m:3" and manifest["model"]["uri"] == "models:/m/3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["created"])


def test_the_commit_is_the_checkouts(whole, monkeypatch):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        manifest = json.loads((whole / "manifest.json").read_text("utf-8"))
        assert manifest["git_commit"].removesuffix("-dirty") == head.stdout.strip()
    monkeypatch.setenv("PATH", "")
    assert bundle._git_commit() is None


def test_secrets_and_compiled_files_stay_behind(whole):
    assert not [name for name in tree(whole) if name.endswith((".env", ".pyc"))]
    assert (whole / ".env.example").exists() and (whole / ".dockerignore").exists()


def test_the_same_twice_but_for_the_time(write, tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert first | {"created": ""} == second | {"created": ""}
    one, two = tree(tmp_path / "a"), tree(tmp_path / "b")
    del one["manifest.json"], two["manifest.json"]
    assert one == two


def test_the_images_user_may_read_it_whatever_the_umask(write, tmp_path):
    before = os.umask(0o077)
    try:
        write()
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path / "out").as_posix(): path.stat().st_mode & 0o777 for path in
             [tmp_path / "out", *(tmp_path / "out").rglob("*")]}  # fmt: skip
    executable = {name for name, mode in modes.items() if mode == 0o755 and (tmp_path / "out" / name).is_file()}
    assert executable == {"build.sh", "run.sh", "test.sh"}
    assert set(modes.values()) == {0o755, 0o644} and modes["."] == 0o755


def test_a_checkout_that_is_not_whole(write, monkeypatch, tmp_path):
    (tmp_path / "demo_serving" / "package").mkdir(parents=True)
    monkeypatch.setattr(bundle, "PACKAGE", tmp_path / "demo_serving" / "package")
    with pytest.raises(BundleError) as error:
        write()
    assert_told(error, "has no demo_serving/package/Dockerfile")


def test_this_checkouts_package_is_whole():
    assert not [name for name in bundle.NEEDED_OF_PACKAGE if not (bundle.PACKAGE / name).is_file()]
    assert all(path.stat().st_mode & 0o100 for path in bundle.PACKAGE.glob("*.sh"))


# --- the place ------------------------------------------------------------------------------------


def test_an_empty_folder_and_a_missing_one_are_filled(write, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(tmp_path / "not" / "there")
    assert (tmp_path / "empty" / "manifest.json").exists() and (tmp_path / "not" / "there" / "manifest.json").exists()


def test_a_file_in_the_way(write, tmp_path):
    (tmp_path / "out").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(BundleError) as error:
            write(overwrite=overwrite)
        assert_told(error, "out is a file")
    assert (tmp_path / "out").read_text() == "mine"


NO_MANIFESTS = ["{", "[]", '{"format": 1}', '{"format": 1, "model": 1, "files": {}}', '{"model": {}, "files": {}}',
                '{"format": 1, "model": {}, "files": []}']  # fmt: skip


@pytest.mark.parametrize("manifest", [None, *NO_MANIFESTS])
def test_a_folder_of_somebody_else_is_replaced_only_where_that_is_said(write, tmp_path, manifest):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    if manifest:
        (tmp_path / "out" / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError) as error:
        write()
    assert_told(error, f"is not empty, and what is in it is no bundle: {'manifest.json' if manifest else 'thesis.txt'}")
    assert "--overwrite" in error.value.hint
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    write(overwrite=True)
    assert "thesis.txt" not in tree(tmp_path / "out") and "run.sh" in tree(tmp_path / "out")


def test_a_bundle_as_it_was_written_is_replaced_without_a_word(write, tmp_path):
    write()
    written = tree(tmp_path / "out")
    (tmp_path / "out" / "serving" / "__pycache__").mkdir()
    (tmp_path / "out" / "serving" / "__pycache__" / "app.pyc").write_bytes(b"by a server that ran here")
    (tmp_path / "out" / ".DS_Store").write_bytes(b"by a file manager that looked in")
    write()
    again = tree(tmp_path / "out")
    del written["manifest.json"], again["manifest.json"]  # it has the time
    assert again == written
    assert [path.name for path in tmp_path.glob(".out.part-*")] == []


def _link(folder: Path) -> None:
    (folder / "run.sh").rename(folder.parent / "run.sh")
    (folder / "run.sh").symlink_to(folder.parent / "run.sh")


CHANGES = {
    ".env was added": lambda folder: (folder / ".env").write_text("API_KEYS=secret"),
    "Dockerfile was edited": lambda folder: (folder / "Dockerfile").write_text("FROM scratch\nUSER 0\n"),
    "model/MLmodel is gone": lambda folder: (folder / "model" / "MLmodel").unlink(),
    "run.sh was edited": _link,
    "notes was added": lambda folder: (folder / "notes").symlink_to("nowhere"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_that_was_changed_stays_unless_it_is_said_otherwise(write, tmp_path, change):
    write()
    CHANGES[change](tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(BundleError) as error:
        write()
    assert_told(error, rf"bundle in .*out \(m version 3\) was changed since it was written: {change}\.")
    assert "--overwrite" in error.value.hint and "--output-dir" in error.value.hint
    assert tree(tmp_path / "out") == before
    write(overwrite=True)
    bundle.check_target(tmp_path / "out")


def test_a_bundle_that_is_changed_while_the_new_one_is_made_stays(write, tmp_path, monkeypatch):
    write()
    monkeypatch.setattr(bundle, "_set_modes", lambda part: (tmp_path / "out" / ".env").write_text("PORT=9"))
    with pytest.raises(BundleError, match=".env was added"):
        write()
    assert (tmp_path / "out" / ".env").read_text() == "PORT=9"


def test_what_is_needed_elsewhere_is_not_overwritten(write, tmp_path, monkeypatch):
    place = tmp_path / "place"
    (place / "artifacts" / "1").mkdir(parents=True)
    (place / "artifacts" / "1" / "weights").write_text("registered")
    for target in (place, place / "artifacts", place / "artifacts" / "1"):
        with pytest.raises(BundleError) as error:
            write(target, overwrite=True, keep=[place / "artifacts"])
        assert_told(error, "is not overwritten: it (holds|is in) .*artifacts")
    with pytest.raises(BundleError, match=f"it holds {REPO}"):
        write(REPO, overwrite=True)
    monkeypatch.setenv("HOME", str(place / "artifacts"))
    with pytest.raises(BundleError, match="it holds .*artifacts"):
        write(place, overwrite=True)
    monkeypatch.delenv("HOME")
    monkeypatch.chdir(place)
    with pytest.raises(BundleError, match="it holds .*place"):
        write(Path(), overwrite=True)
    assert (place / "artifacts" / "1" / "weights").exists()


def test_inside_the_folders_that_are_copied(write):
    with pytest.raises(BundleError) as error:
        write(REPO / "genai_server" / "exported_model")
    assert_told(error, "inside a folder that is copied")


def test_a_place_that_cannot_be_written(write, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError) as error:
        write(tmp_path / "file" / "out")
    assert_told(error, f"No bundle can be written to {tmp_path}/file/out: {tmp_path}/file: Not a directory")


def test_too_little_space(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(bundle.shutil, "disk_usage", lambda place: usage(30_000_000))
    bundle.require_space(tmp_path / "not" / "there", 29_000_000)
    with pytest.raises(BundleError) as error:
        bundle.require_space(tmp_path / "not" / "there", 31_000_000)
    assert_told(error, f"Only 30 MB are free at {tmp_path}/not/there; the export needs 31 MB")


# --- interrupted ----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from genai_lifecycle.models import bundle
package, model, target, moment = sys.argv[1:]
def kill(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)
bundle.PACKAGE = Path(package)
if moment == "second rename":
    rename, done = Path.rename, []
    Path.rename = lambda self, to: kill() if done else done.append(rename(self, to))
else:
    setattr(bundle, moment, kill)
bundle.write(Path(model), Path(target), {"model": {"name": "m", "version": "4"}})
"""


def killed_at(moment: str, package: Path, target: Path) -> list[str]:
    """Replace the bundle at `target` in a process that is killed; returns the names of what is beside it then."""
    model = make_model(target.parent.parent / "killed")
    command = [sys.executable, "-c", KILLED, str(package), str(model), str(target), moment]
    assert subprocess.run(command, cwd=REPO, check=False).returncode == -signal.SIGKILL
    return [path.name for path in target.parent.iterdir() if path.name != target.name]


@pytest.mark.parametrize("moment", ["_copy_package", "_manifest", "_put_in_place"])
def test_kill_9_leaves_a_temporary_folder_that_the_next_export_sweeps(write, package, tmp_path, moment):
    target = tmp_path / "place" / "out"
    write(target)
    before = tree(target)
    left = killed_at(moment, package, target)
    assert tree(target) == before
    assert len(left) == 1 and left[0].startswith(".out.part-")
    write(target)
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_kill_9_while_one_bundle_takes_the_place_of_another_keeps_the_one_before(write, package, tmp_path):
    target = tmp_path / "place" / "out"
    write(target)
    before = tree(target)
    killed_at("second rename", package, target)
    assert not target.exists()
    with pytest.raises(BundleError, match="no Dockerfile"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bundle, "_copy_package", raising(BundleError("no Dockerfile")))
            write(target)
    assert tree(target) == before, "it has its name again, also where the next export fails"
    killed_at("second rename", package, target)
    manifest = write(target)
    assert json.loads((target / "manifest.json").read_text("utf-8")) == manifest
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_kill_9_while_the_one_before_is_removed_leaves_a_folder_that_the_next_export_sweeps(write, package, tmp_path):
    target = tmp_path / "place" / "out"
    write(target)
    left = killed_at("_remove", package, target)
    assert json.loads((target / "manifest.json").read_text("utf-8"))["model"]["version"] == "4"
    assert len(left) == 1
    write(target)
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_a_folder_that_is_removed_is_known_as_ours_until_the_last(tmp_path, monkeypatch):
    """A kill may come after any file."""
    own = tmp_path / ".out.part-1"
    for name in ("replaced", "a", "z"):
        (own / name).mkdir(parents=True)
    (own / LOCK_FILE).write_text("1")
    seen, remove = [], shutil.rmtree
    monkeypatch.setattr(bundle.shutil, "rmtree", lambda path, **how: (seen.append(path), remove(path, **how)))
    bundle._remove(own)
    assert not own.exists() and seen[-1] == own and {path.name for path in seen[:-1]} == {"replaced", "a", "z"}


def test_what_others_keep_beside_it_is_not_swept(write, tmp_path):
    (tmp_path / ".out.part-of-my-thesis").mkdir()
    (tmp_path / ".out.part-of-my-thesis" / "text").write_text("mine")
    (tmp_path / "scratch-mine").mkdir()
    write()
    assert (tmp_path / ".out.part-of-my-thesis" / "text").exists() and (tmp_path / "scratch-mine").exists()


def test_an_export_under_way_is_not_swept(write, tmp_path):
    with bundle._part_folder(tmp_path / "out") as part:
        (part / "file").write_text("half done")
        write()
        assert (part / "file").exists()


def test_the_bundle_before_comes_back_when_the_last_step_fails(write, tmp_path, monkeypatch):
    write()
    before = tree(tmp_path / "out")
    rename = Path.rename

    def failing(self: Path, to: Path):
        if to == tmp_path / "out" and self.name == "out":
            raise OSError(28, "No space left on device", str(to))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError) as error:
        write()
    assert_told(error, "out: No space left on device")
    assert tree(tmp_path / "out") == before
    assert not list(tmp_path.glob(".out.part-*"))


# --- wheels ---------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch, package) -> Path:
    """A folder as the only package index, with one small wheel; its name with its hash is the lock."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tiny_part-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tiny-part\nVersion: 1.0\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_part.py", "")
        archive.writestr("tiny_part-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            "tiny_part-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        digest = base64.urlsafe_b64encode(hashlib.sha256(metadata.encode()).digest()).rstrip(b"=").decode()
        archive.writestr("tiny_part-1.0.dist-info/RECORD", f"tiny_part-1.0.dist-info/METADATA,sha256={digest},\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def lock(part: Path, sha256: str) -> Path:
    part.mkdir()
    (part / "requirements.lock").write_text(f"tiny-part==1.0 --hash=sha256:{sha256}\n")
    return part


on_the_images_python = pytest.mark.skipif(
    (platform.system(), platform.python_version()[:4]) != bundle.WHEELS_PYTHON, reason="wheels are for Linux, 3.11"
)


@on_the_images_python
def test_wheels_come_as_the_lock_says(index, tmp_path):
    part = lock(tmp_path / "part", hashlib.sha256(index.read_bytes()).hexdigest())
    bundle._fetch_wheels(part)
    assert tree(part / "wheels") == {index.name: index.read_bytes()}


@on_the_images_python
def test_a_wheel_with_another_hash_is_refused(index, tmp_path):
    with pytest.raises(BundleError) as error:
        bundle._fetch_wheels(lock(tmp_path / "part", "0" * 64))
    assert_told(error, "wheels could not be fetched: .*(HASH|HASHES)")


@on_the_images_python
def test_a_lock_without_hashes_is_refused(index, tmp_path):
    part = lock(tmp_path / "part", "0" * 64)
    (part / "requirements.lock").write_text("tiny-part==1.0\n")
    with pytest.raises(BundleError) as error:
        bundle._fetch_wheels(part)
    assert_told(error, "wheels could not be fetched: .*[Hh]ash")


@on_the_images_python
def test_a_package_index_that_has_nothing_or_does_not_answer(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(BundleError) as error:
        bundle._fetch_wheels(lock(tmp_path / "part", "0" * 64))
    assert_told(error, "wheels could not be fetched: .*tiny-part")
    assert "Without --wheels" in error.value.hint
    monkeypatch.setattr(bundle, "WHEELS_TIMEOUT_S", 0.01)
    with pytest.raises(BundleError) as error:
        bundle._fetch_wheels(lock(tmp_path / "other", "0" * 64))
    assert_told(error, "no end to pip download within 0 s")


def test_wheels_of_another_system_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle.platform, "system", lambda: "Darwin")
    with pytest.raises(BundleError) as error:
        bundle._fetch_wheels(tmp_path)
    assert_told(error, "would fetch wheels for Darwin 3.*the image runs Linux 3.11")


def test_wheels_are_fetched_when_asked_for_only(write, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bundle, "_fetch_wheels", asked.append)
    write(tmp_path / "without")
    assert asked == []
    write(tmp_path / "with", wheels=True)
    assert len(asked) == 1
