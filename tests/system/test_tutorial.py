"""Every command of docs/tutorial.md, in its order, in a copy of the checkout."""

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

PAGE = (REPO / "docs" / "tutorial.md").read_text("utf-8")
BLOCK = re.compile(r"^```bash(?P<where>[ \w]*)\n(?P<commands>.*?)^```", re.MULTILINE | re.DOTALL)
NOT_RUN = ("make install\n",)  # the tests run in what it installs


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The files that git knows, and the installed packages."""
    folder = tmp_path_factory.mktemp("tutorial") / "checkout"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (REPO / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name, follow_symlinks=False)
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


def test_every_command_of_the_tutorial(checkout):
    blocks = [(found["where"].strip(), found["commands"]) for found in BLOCK.finditer(PAGE)]
    assert {where for where, _ in blocks} == {"", "terminal", "docker"} and len(blocks) > 8
    servers = []
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
                if "/ask" in commands:
                    assert "overfitting" in output.lower()
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(60)
    assert (checkout / "exported_model" / "manifest.json").exists()
    assert (checkout / "my-model").exists() and (checkout / "my-questions.jsonl").read_text("utf-8").count("\n") == 20
