"""The commands that we tell people to type next, with the interpreter and the settings of this run."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path

from genai_lifecycle.config import CHECKOUT, IS_CHECKOUT, PROGRAM, E2EConfig
from genai_lifecycle.runtime.addresses import without_password

# Settings that decide where a later mode looks for what this one left.
_PLACES = (
    "tracking_uri", "backend_store_uri", "data_dir", "s3_endpoint_url", "experiment_name", "registered_model_name",
)  # fmt: skip


def mode_command(config: E2EConfig, mode: str, *more: str) -> str:
    """`python e2e_mlflow.py --mode MODE ...` over the same store as `config`, to be typed where the data are."""
    program = [python(), "e2e_mlflow.py"] if IS_CHECKOUT else [_own(PROGRAM)]
    return shlex.join([*program, "--mode", mode, *more, *_place_flags(config)])


def server() -> str:
    """What starts our server."""
    return f"{python()} fastapi_server.py" if IS_CHECKOUT else f"{python()} -m fastapi_server"


def _own(command: str) -> str:
    """A command that was installed beside this interpreter; its name alone where the shell finds that one."""
    own = str(Path(sys.executable).parent / command)
    return command if shutil.which(command) == own else own


def python() -> str:
    """This interpreter as a person in the checkout would type it."""
    if shutil.which("python") == sys.executable:
        return "python"
    path = Path(sys.executable)
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


def as_typed(path: str) -> str:
    """A file or folder as one types it here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def mlflow() -> str:
    """MLflow's own command; it starts programs that it looks for on the PATH."""
    own = Path(sys.executable).parent
    if Path(shutil.which("mlflow") or "").parent == own:
        return "mlflow"
    return f"PATH={own.relative_to(CHECKOUT) if own.is_relative_to(CHECKOUT) else own}:$PATH mlflow"


def _place_flags(config: E2EConfig) -> list[str]:
    """Flags for the places that are not the default; a password in an address is left to the environment."""
    defaults = {field.name: field.default for field in fields(E2EConfig)}
    flags = []
    for name in _PLACES:
        value = getattr(config, name)
        if value is None or value == defaults[name]:
            continue
        if value != without_password(value) and name in config.from_environment:
            continue
        flags += [f"--{name.replace('_', '-')}", without_password(value)]
    return flags
