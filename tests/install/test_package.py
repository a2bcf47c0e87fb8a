"""The installed package: a wheel of this checkout, in an environment without the checkout, run from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPO

pytestmark = pytest.mark.slow


SHIPPED = ("genai_lifecycle/", "genai_server/", "served_model/", "bundled_model/gpt2-mini/", "demo_serving/package/")
# Where the code finds its files, below the place of the packages; and where a run keeps what it makes.
READ = """
import dataclasses, json
from genai_lifecycle import config
from genai_lifecycle.models import bundle, packaging
from genai_lifecycle.stages import export, monitor, serve, test as acceptance
settings = vars(config.E2EConfig()) | vars(monitor.MonitorSettings()) | vars(export.ExportSettings())
code = [packaging.MODEL_CODE, packaging.PACKAGE_CODE, serve.SERVER, acceptance.PROBE, config.BUNDLED_MODEL,
        *(bundle.PACKAGE / name for name in bundle.NEEDED_OF_PACKAGE)]
print(json.dumps({"code": [[str(path), path.exists()] for path in code],
                  "settings": {name: str(value) for name, value in settings.items()}}))
"""
BROUGHT = {"cases", "gate", "limits"}  # settings whose files come with the package; all others are data


def tracked() -> list[str]:
    """Every file of the commit that is being made, none that merely lies here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (REPO / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (base / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, base / "source" / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", "."]
    subprocess.run([*command, "./source"], cwd=base, capture_output=True, check=True)
    return next(base.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of an environment that has the wheel, and this environment's libraries below it."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    paths = dict.fromkeys([sysconfig.get_path("purelib"), *(path for path in sys.path if "site-packages" in path)])
    (packages / "libraries.pth").write_text("\n".join(paths))
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps"]
    subprocess.run([*command, "--no-index", "--quiet", str(wheel)], capture_output=True, check=True)
    return folder / "bin"


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LIFECYCLE_"))}
    return subprocess.run(
        command, cwd=folder, env=clean | environment, capture_output=True, text=True, check=True, timeout=120
    )


def test_the_command_shows_its_help_in_an_empty_folder(installed, tmp_path):
    done = run([str(installed / "genai-lifecycle"), "--help"], tmp_path)
    assert done.stdout.startswith("usage: genai-lifecycle --mode MODE [FLAG ...]") and done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_it_tells_the_command_that_is_there(installed, tmp_path):
    command = [str(installed / "genai-lifecycle"), "--mode", "server-config"]
    assert "  genai-lifecycle --mode all --tracking-uri" in run(command, tmp_path).stdout
    other = {"PATH": f"{installed}:{os.environ['PATH']}"}
    script = (
        "from genai_lifecycle.serving import commands as c; "
        "print(c.mode_command(c.E2EConfig(), 'ui'), c.server(), sep=';')"
    )
    told = [run([str(installed / "python"), "-c", script], tmp_path, **env).stdout.strip() for env in ({}, other)]
    assert told == [
        f"{installed}/genai-lifecycle --mode ui;{installed}/python -m fastapi_server",
        "genai-lifecycle --mode ui;python -m fastapi_server",
    ]


def test_the_code_finds_its_files_and_keeps_its_data_in_the_current_folder(installed, tmp_path):
    found = json.loads(run([str(installed / "python"), "-c", READ], tmp_path).stdout)
    packages, settings = str(installed.parent / "lib"), found["settings"]
    assert [path for path, exists in found["code"] if not (exists and path.startswith(packages))] == []
    assert {name for name, value in settings.items() if packages in value} == BROUGHT
    assert all(Path(settings[name]).exists() for name in BROUGHT)
    in_folder = {name for name, value in settings.items() if str(tmp_path) in value}
    assert {"data_dir", "backend_store_uri", "staging_dir", "log_dir", "output_dir", "report"} <= in_folder


def test_settings_files_of_the_current_folder_come_first(installed, tmp_path):
    shutil.copy(REPO / "gate.yaml", tmp_path)
    found = json.loads(run([str(installed / "python"), "-c", READ], tmp_path).stdout)
    assert found["settings"]["gate"] == str(tmp_path / "gate.yaml")


def test_the_doctor_knows_the_pins_without_a_checkout(installed, tmp_path):
    script = (
        "import json; from genai_lifecycle.runtime.machine import pins_of; "
        "print(json.dumps(pins_of('genai-lifecycle')))"
    )
    pins = json.loads(run([str(installed / "python"), "-c", script], tmp_path).stdout)
    assert {"mlflow", "torch", "fastapi", "psycopg"} <= set(pins)


def test_the_wheel_has_every_file_that_is_served_or_exported(wheel):
    with zipfile.ZipFile(wheel) as archive:
        modes = {item.filename: item.external_attr >> 16 for item in archive.infolist()}
    names = [name for name in tracked() if name.startswith(SHIPPED)]
    assert [name for name in names if name not in modes] == []
    scripts = [name for name in names if os.access(REPO / name, os.X_OK)]
    assert scripts and all(modes[name] & 0o100 for name in scripts)
    assert not [name for name in modes if name.startswith(("tests/", "benchmarks/", "docs/", "build/"))]


def test_there_is_one_number_and_one_licence(wheel):
    from genai_server import __version__

    with zipfile.ZipFile(wheel) as archive:
        folder = f"genai_lifecycle-{__version__}.dist-info"
        metadata = archive.read(f"{folder}/METADATA").decode()
        licence = archive.read(f"{folder}/licenses/LICENSE").decode()
    assert f"\nVersion: {__version__}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    assert licence == (REPO / "LICENSE").read_text("utf-8") and "Version 2.0, January 2004" in licence
    others = [name for name in ("pyproject.toml", "genai_lifecycle/__init__.py") if __version__ in read(name)]
    assert others == []


def read(name: str) -> str:
    return (REPO / name).read_text("utf-8")
