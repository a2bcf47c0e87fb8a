"""Every command of the README's quick start and of the tutorial, each page in a copy of the checkout of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import REPO

pytestmark = pytest.mark.slow


README = (REPO / "README.md").read_text("utf-8")
PAGES = {
    "README.md": README[README.index("## Quick start") : README.index("## Which mode")],
    "docs/tutorial.md": (REPO / "docs" / "tutorial.md").read_text("utf-8"),
}
BLOCK = re.compile(r"^```bash(?P<where>[ \w]*)\n(?P<commands>.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = ("make install\n",)  # the tests run in what it installs


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files that git knows, older than the installed packages: `make` does not install again."""
    folder = tmp_path / "checkout"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (REPO / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name, follow_symlinks=False)
            os.utime(folder / name, (0, 0), follow_symlinks=False)
    (folder / ".venv").symlink_to(REPO / ".venv")
    return folder


def shell(checkout: Path, commands: str, **more) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIFECYCLE_", "MLFLOW_"))}
    environment["PATH"] = f"{checkout / '.venv' / 'bin'}:{environment['PATH']}"
    return subprocess.Popen(["bash", "-e", "-c", commands], cwd=checkout, env=environment, text=True, **more)


def wait_until_ready() -> None:
    for _ in range(600):
        with suppress(OSError), urllib.request.urlopen("http://127.0.0.1:5001/health/ready", timeout=5):
            return
        time.sleep(0.2)
    pytest.fail("the server was not ready within two minutes")


@pytest.mark.parametrize("page", PAGES)
def test_every_command(checkout, page):
    blocks = [(found["where"].strip(), found["commands"]) for found in BLOCK.finditer(PAGES[page])]
    assert {"", "terminal"} <= {where for where, _ in blocks} <= {"", "terminal", "docker"} and len(blocks) > 2
    servers, answers = [], 0
    try:
        for where, commands in blocks:
            if where == "terminal":
                servers.append(shell(checkout, commands, start_new_session=True))
                wait_until_ready()
            elif where == "":
                for line in NOT_RUN:
                    commands = commands.replace(line, "")
                done = shell(checkout, commands, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                output = done.communicate(timeout=300)[0]
                assert done.returncode == 0, f"{commands}\n{output}"
                answers += "/ask" in commands and "overfitting" in output.lower()
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(60)
    assert (checkout / "exported_model" / "manifest.json").exists()
    assert answers == 1
