"""Moves the files that earlier versions of the server wrote into `local_staging/`, which `make clean` empties:
feedback, traces that MLflow does not have yet, the last good copy of the prompt.

Each file is renamed, so a start that is killed can simply be repeated.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from genai_server.feedback.ledger import Ledger
from genai_server.settings import DATA_FOLDER, ServerSettings
from genai_server.tracing.spool import Spool

log = logging.getLogger(__name__)

FORMER_FOLDER = "local_staging"  # beside DATA_FOLDER
LOCK_TIMEOUT_S = 1.0


def move_former_files(settings: ServerSettings) -> None:
    """Move the files into the folder that the settings name, where that is the usual one; the log says which."""
    ledger, prompt = Path(settings.feedback_file).absolute(), Path(settings.prompt_file).absolute()
    if ledger.parent.name == DATA_FOLDER:
        former = ledger.parent.parent / FORMER_FOLDER
        _move(former / ledger.name, ledger, lambda file, to: Ledger(to).absorb(file))
        for spool in sorted(former.glob("traces-*.db")):
            _move(spool, ledger.with_name(spool.name), _move_spool)
    if prompt.parent.name == DATA_FOLDER and not prompt.exists():
        _move(prompt.parent.parent / FORMER_FOLDER / prompt.name, prompt, _rename)


def _move(file: Path, to: Path, move: Callable[[Path, Path], object]) -> None:
    try:
        if move(file, to):
            log.info("%s of an earlier version is now in %s.", file, to.parent)
    except (OSError, sqlite3.Error) as exc:
        log.warning("%s of an earlier version stays where it is, until the next start: %s.", file, exc)


def _rename(file: Path, to: Path) -> bool:
    if not file.is_file():
        return False
    to.parent.mkdir(parents=True, exist_ok=True)
    os.rename(file, to)
    return True


def _move_spool(file: Path, to: Path) -> bool:
    """As one file, which it is while nobody uses it. Raises sqlite3.Error where somebody does.

    Where there is a new one already, the records go into it: a trace that is written twice is there once.
    """
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", LOCK_TIMEOUT_S, uri=True)) as spool:
        spool.execute("PRAGMA journal_mode = DELETE")
        records = [record for (record,) in spool.execute("SELECT record FROM traces ORDER BY id")]
    if not to.exists():
        return _rename(file, to)
    with closing(Spool(to)) as newer:
        newer.put(records)
    file.unlink()
    return True
