"""The lock of a data directory, with a second real process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from genai_lifecycle.errors import Busy, StorageFailed
from genai_lifecycle.runtime.lock import only_run

HOLD = """
import sys, time
from pathlib import Path
from genai_lifecycle.runtime.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"process {first.pid}"):
        with only_run(tmp_path):
            pass
    first.kill()  # kill -9: no clean-up runs
    first.wait()
    with only_run(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        with only_run(tmp_path / "file" / "below"):
            pass
