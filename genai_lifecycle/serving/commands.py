"""The commands that we tell people to type next, with the interpreter and the settings of this run."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from genai_lifecycle.config import CHECKOUT, IS_CHECKOUT, PROGRAM, STORE, E2EConfig
from genai_lifecycle.runtime.addresses import without_password
from genai_lifecycle.settings import settings_of


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
    flags = []
    for item in settings_of(E2EConfig):
        value = getattr(config, item.name)
        if item.group != STORE or value in (None, item.default):
            continue
        if value != without_password(value) and item.name in config.from_environment:
            continue
        flags += [item.flag, without_password(value)]
    return flags
