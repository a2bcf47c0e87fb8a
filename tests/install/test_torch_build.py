"""Which torch `make install` gets: real pip, in a bare environment, against package indexes on this machine."""

from __future__ import annotations

import functools
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path

import pip
import pytest
from conftest import REPO, free_port

pytestmark = pytest.mark.slow


PINNED = re.search(r"^torch==(\S+)", (REPO / "requirements.txt").read_text("utf-8"), re.MULTILINE)[1]
# The program, with the CPU index and the patience of this test.
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import torch_build
torch_build.CPU_INDEX, torch_build.PATIENCE_S = {cpu_index!r}, 1.0
raise SystemExit(torch_build.main(platform={platform!r}))
"""


def add_wheel(index: Path, version: str, cuda: str | None) -> None:
    """A torch of nothing but its version file, as a package index serves it."""
    folder = index / "torch"
    folder.mkdir(parents=True)
    name = f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("torch/__init__.py", "raise ImportError('nobody imports it to look')")
        wheel.writestr("torch/version.py", f"__version__ = {version!r}\ncuda = {cuda!r}\nhip = None\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')


class Index:
    """A package index over HTTP, and what was asked of it."""

    def __init__(self, folder: Path):
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_) -> None:
                asked.append(self.path)

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cpu_index(tmp_path):
    add_wheel(tmp_path / "cpu", f"{PINNED}+cpu", None)
    index = Index(tmp_path / "cpu")
    yield index
    index.close()


@pytest.fixture
def plain_index(tmp_path):
    add_wheel(tmp_path / "plain", PINNED, "13.0")
    index = Index(tmp_path / "plain")
    yield index
    index.close()


@pytest.fixture
def bare(tmp_path) -> Path:
    """An environment with pip and nothing else."""
    venv.create(tmp_path / "bare", symlinks=True)
    packages = next((tmp_path / "bare" / "lib").glob("python*")) / "site-packages"
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    return tmp_path / "bare" / "bin" / "python"


def install(python: Path, configured: Index, cpu_index: str, *, platform: str = "linux", **environment: str):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TORCH_"))}
    pips_own = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": configured.url, "PIP_RETRIES": "0"}
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1"}
    script = SCRIPT.format(folder=str(REPO / "install"), cpu_index=cpu_index, platform=platform)
    return subprocess.run(
        [python, "-c", script], env=clean | pips_own | quiet | environment, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def version_in(python: Path) -> str:
    script = "from importlib.metadata import version; print(version('torch'))"
    return subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_linux_gets_the_cpu_build_without_a_word(bare, cpu_index, plain_index):
    done = install(bare, plain_index, cpu_index.url)
    assert (done.returncode, done.stdout) == (0, "")
    assert version_in(bare) == f"{PINNED}+cpu" and plain_index.asked == []


def test_where_the_cpu_index_is_out_of_reach_the_configured_one_is_taken_and_cuda_is_told(bare, plain_index):
    done = install(bare, plain_index, f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 0 and version_in(bare) == PINNED
    fallback, cuda = done.stdout.splitlines()
    assert fallback.startswith("PyTorch's CPU index does not answer (") and "TORCH_INDEX_URL" in fallback
    assert f"torch {PINNED} here is a build for CUDA 13.0" in cuda and "make install TORCH_INDEX_URL=" in cuda


def test_an_index_that_never_answers_costs_seconds(bare, plain_index):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        done = install(bare, plain_index, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "does not answer (nothing within 1 s)" in done.stdout or "timed out" in done.stdout
    assert done.returncode == 0 and time.monotonic() - started < 30


def test_an_index_that_refuses_is_out_of_reach_too(bare, plain_index, tmp_path):
    (tmp_path / "nothing").mkdir()
    empty = Index(tmp_path / "nothing")
    done = install(bare, plain_index, empty.url)
    empty.close()
    assert "does not answer (HTTP 404)" in done.stdout and version_in(bare) == PINNED


def test_an_index_that_is_named_is_the_one(bare, cpu_index, plain_index):
    done = install(bare, plain_index, f"http://127.0.0.1:{free_port()}", TORCH_INDEX_URL=cpu_index.url)
    assert (done.returncode, done.stdout) == (0, "")
    assert version_in(bare) == f"{PINNED}+cpu" and plain_index.asked == []


def test_an_index_that_is_named_and_has_nothing_is_an_error(bare, cpu_index, plain_index):
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = install(bare, plain_index, cpu_index.url, TORCH_INDEX_URL=nowhere)
    assert done.returncode != 0 and cpu_index.asked == plain_index.asked == []
    assert done.stdout == f"torch {PINNED} could not be installed from {nowhere}; see above.\n"


def test_macos_asks_the_configured_index_only(bare, cpu_index, plain_index):
    assert install(bare, plain_index, cpu_index.url, platform="darwin").returncode == 0
    assert version_in(bare) == PINNED and cpu_index.asked == []


def test_what_is_there_is_left_alone(bare, cpu_index, plain_index):
    install(bare, plain_index, cpu_index.url)
    cpu_index.asked.clear()
    done = install(bare, plain_index, cpu_index.url)
    assert (done.returncode, done.stdout, cpu_index.asked) == (0, "", [])


def test_torch_is_installed_as_pinned_and_only_by_this_program():
    makefile = (REPO / "Makefile").read_text("utf-8")
    assert "$(BIN)/python install/torch_build.py" in makefile and "torch==" not in makefile


def test_the_build_here_runs_without_cuda():
    """On this machine too, whatever the index was."""
    sys.path.insert(0, str(REPO / "install"))
    try:
        import torch_build

        assert torch_build.installed() == PINNED
        import torch

        assert (torch_build.gpu_platform() is None) == (torch.version.cuda is None and torch.version.hip is None)
    finally:
        sys.path.remove(str(REPO / "install"))
