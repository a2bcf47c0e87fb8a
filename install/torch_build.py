"""Installs the pinned torch, as its CPU build where that can be had. `make install` runs this after the lock.

The lock cannot hold torch: under one version there are two Linux wheels, PyPI's with gigabytes of CUDA libraries and
the CPU build of PyTorch's own index, and macOS has a third. Each index vouches for its own file.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE_S = 10.0  # for the CPU index to answer, looking up its name included


def main(env: Mapping[str, str] = os.environ, platform: str = sys.platform) -> int:
    """Install torch unless the pinned version is there, and say where it is a build for GPUs; returns the exit code."""
    pinned = re.search(r"^torch==(\S+)", REQUIREMENTS.read_text("utf-8"), re.MULTILINE)[1]
    if installed() != pinned:
        index = env.get("TORCH_INDEX_URL") or default_index(platform)
        command = [sys.executable, "-m", "pip", "install", "--quiet", *(["--index-url", index] if index else [])]
        code = subprocess.run([*command, f"torch=={pinned}"], check=False).returncode
        if code:
            print(f"torch {pinned} could not be installed from {index or 'the configured package index'}; see above.")
            return code
    if gpu := gpu_platform():
        print(
            f"torch {pinned} here is a build for {gpu}: gigabytes that nothing in this project uses. "
            f"For the CPU build: rm -rf .venv && make install TORCH_INDEX_URL={CPU_INDEX} (or a mirror of it)."
        )
    return 0


def installed() -> str | None:
    """The version without its local part: 2.13.0, not 2.13.0+cpu."""
    try:
        return version("torch").split("+")[0]
    except PackageNotFoundError:
        return None


def default_index(platform: str) -> str | None:
    """PyTorch's CPU index on Linux where it answers; None = pip's own settings, elsewhere a CPU build too."""
    if platform != "linux":
        return None
    reason = silence(f"{CPU_INDEX}/torch/")
    if not reason:
        return CPU_INDEX
    print(
        f"PyTorch's CPU index does not answer ({reason}); torch comes from the configured package index. "
        "TORCH_INDEX_URL names another one.",
        flush=True,
    )
    return None


def silence(url: str) -> str:
    """Why the address gives no answer; empty when it does. Over within PATIENCE_S, which a name server may exceed."""
    reasons = [f"nothing within {PATIENCE_S:.0f} s"]
    asking = threading.Thread(target=lambda: reasons.append(_ask(url)), daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return reasons[-1]


def _ask(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S):
            return ""
    except urllib.error.HTTPError as exc:
        return f"HTTP {exc.code}"
    except (OSError, http.client.HTTPException) as exc:
        return str(getattr(exc, "reason", exc))


def gpu_platform() -> str | None:
    """CUDA or ROCm with its version, as torch's own file says, without the seconds of importing torch."""
    importlib.invalidate_caches()
    package = importlib.util.find_spec("torch")
    facts = runpy.run_path(str(Path(package.submodule_search_locations[0]) / "version.py"))
    return next((f"{name} {facts[key]}" for key, name in (("cuda", "CUDA"), ("hip", "ROCm")) if facts.get(key)), None)


if __name__ == "__main__":
    raise SystemExit(main())
