"""Makes the pictures of the README: `python docs/images/make_images.py` (a minute; needs Chromium).

A whole life in a temporary folder, then our page with an answer, MLflow's page with the compared prompts, and the plot
that an evaluation of six prompts leaves.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE, REPO = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
SERVER_PORT, UI_PORT = 5301, 5350
OTHER_PROMPTS = ("{{question}}", "Q: {{question}}\nA:")
SIZE = {"width": 1280, "height": 800}


class Life:
    """A store of its own, and the modes that work on it."""

    def __init__(self, folder: Path):
        self._places = ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}", "--data-dir", str(folder / "artifacts")]
        self._folder = folder
        self._env = os.environ | {
            "LIFECYCLE_STAGING_DIR": str(folder / "staging"), "LIFECYCLE_LOG_DIR": str(folder / "logs"),
            "FEEDBACK_FILE": str(folder / "feedback.jsonl"), "PROMPT_FILE": str(folder / "prompt.json"),
        }  # fmt: skip

    def run(self, mode: str, *flags: str) -> str:
        command = [sys.executable, "e2e_mlflow.py", "--mode", mode, *flags, *self._places]
        return subprocess.run(command, cwd=REPO, env=self._env, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def running(self, mode: str, port: int, path: str, *flags: str) -> Iterator[str]:
        """A mode that serves; yields its address once `path` answers."""
        command = [sys.executable, "e2e_mlflow.py", "--mode", mode, "--port", str(port), *flags, *self._places]
        process = subprocess.Popen(command, cwd=REPO, env=self._env, stdout=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url + path)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def main() -> int:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        life = Life(Path(name))
        life.run("experiment")
        life.run("deploy")
        life.run("test")
        _plot(life, Path(name))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        with life.running("serve", SERVER_PORT, "/health/ready", "--start") as url:
            _our_page(page, url)
        with life.running("ui", UI_PORT, "/health") as url:
            _mlflow_page(page, url, Path(name))
        browser.close()
    return 0


def _plot(life: Life, folder: Path) -> None:
    """The scores of the four templates and two other texts."""
    for template in OTHER_PROMPTS:
        life.run("prompts", "update", "--name", "qa", "--template", template)
    prompts = [flag for number in range(1, 7) for flag in ("--prompt", f"qa/{number}")]
    said = life.run("evaluate", *prompts)
    run_id = re.search(r"^Evaluation .* run (\w+)", said, re.MULTILINE)[1]
    (plot,) = folder.glob(f"artifacts/**/{run_id}/artifacts/quality.png")
    shutil.copy(plot, HERE / "prompts_compared.png")


def _our_page(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("textbox").first.fill("What is overfitting?")
    page.keyboard.press("Enter")
    page.wait_for_timeout(3000)
    page.screenshot(path=HERE / "page.png")


def _mlflow_page(page: Page, url: str, folder: Path) -> None:
    """Two templates of the experiment, answer by answer."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        rows = database.execute(
            "SELECT run_uuid FROM runs WHERE name IN ('qa/1 simple', 'qa/3 expert') AND experiment_id = 1"
        )
        first, second = (run_id for (run_id,) in rows)
    page.set_viewport_size({"width": 1900, "height": 900})
    page.goto(f"{url}/#/experiments/1/evaluation-runs?selectedRunUuid={first}&compareToRunUuid={second}")
    page.wait_for_timeout(8000)
    page.get_by_role("button", name="Close").last.click()  # MLflow's assistant
    page.wait_for_timeout(2000)
    page.screenshot(path=HERE / "evaluation_runs.png")


def _wait_for(url: str) -> None:
    for _ in range(300):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within a minute")


if __name__ == "__main__":
    raise SystemExit(main())
