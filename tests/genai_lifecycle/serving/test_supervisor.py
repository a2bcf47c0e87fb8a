"""A crashing server is started again, and given up in the end. Real processes."""

from __future__ import annotations

import sys
import time

import pytest

from genai_lifecycle.serving import processes
from genai_lifecycle.serving.processes import ServerFailed, ServerProcess, new_log, wait_until_ready
from genai_lifecycle.serving.supervisor import RestartPolicy, supervise

pytestmark = pytest.mark.slow


QUICK = RestartPolicy(max_crashes=5, first_pause_s=0.01, longest_pause_s=0.05)
READY = "open(f'{sys.argv[1]}/ready', 'w').close()"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(processes, "POLL_S", 0.02)


class Life:
    """Each start runs the next of `programs`, the last one again and again."""

    def __init__(self, folder, *programs: str):
        self.folder, self.programs = folder, programs
        self.log_file = new_log(folder, "server.log")
        self.starts, self.told = 0, []

    def start(self) -> ServerProcess:
        (self.folder / "ready").unlink(missing_ok=True)
        program = self.programs[min(self.starts, len(self.programs) - 1)]
        self.starts += 1
        command = [sys.executable, "-c", f"import sys, time\n{program}", str(self.folder)]
        return ServerProcess(command, self.log_file, {}, 0.5)

    def wait_ready(self, server: ServerProcess) -> None:
        wait_until_ready(server, (self.folder / "ready").exists, "the server", 1.0)
        self.told.append("ready")

    def run(self, policy: RestartPolicy = QUICK) -> None:
        supervise(self.start, self.wait_ready, self.told.append, policy)


def ready_then(code: int) -> str:
    return f"{READY}\ntime.sleep(0.2)\nprint('last words')\nsys.exit({code})"


def test_a_server_that_ends_well_is_not_started_again(tmp_path):
    life = Life(tmp_path, ready_then(0))
    life.run()
    assert life.starts == 1 and life.told == ["ready"]


def test_a_crashed_server_is_started_again(tmp_path):
    life = Life(tmp_path, ready_then(3), ready_then(0))
    life.run()
    assert life.starts == 2
    ready, crash, ready_again = life.told
    assert (ready, ready_again) == ("ready", "ready")
    assert "exit code 3, crash 1 of 5 at most; starting it again in 0.01 s" in crash


def test_it_gives_up_in_the_end_and_says_why(tmp_path):
    life = Life(tmp_path, ready_then(3))
    assert RestartPolicy().max_crashes == 5
    with pytest.raises(ServerFailed, match="crashed 3 times, the last time with exit code 3") as caught:
        life.run(RestartPolicy(max_crashes=3, first_pause_s=0.01))
    assert life.starts == 3 and caught.value.exit_code == 13
    assert "last words" in str(caught.value)


def test_a_first_start_that_fails_is_told_at_once(tmp_path):
    life = Life(tmp_path, "sys.exit('a setting is wrong')")
    with pytest.raises(ServerFailed, match="a setting is wrong"):
        life.run()
    assert life.starts == 1


def test_a_later_start_that_fails_counts_as_a_crash(tmp_path):
    life = Life(tmp_path, ready_then(1), "sys.exit(0)", "sys.exit('no memory')", ready_then(0))
    life.run()
    assert life.starts == 4
    assert "no sign of being ready" in life.told[2]
    assert "exit code 1, crash 3" in life.told[3]


def test_a_start_that_hangs_counts_as_a_crash(tmp_path):
    life = Life(tmp_path, ready_then(1), "time.sleep(300)", ready_then(0))
    life.run()
    assert life.starts == 3
    assert "no sign of being ready, crash 2" in life.told[2]


def test_a_long_good_run_makes_former_crashes_forgotten(tmp_path):
    life = Life(tmp_path, *[ready_then(1)] * 3, ready_then(0))
    life.run(RestartPolicy(max_crashes=2, first_pause_s=0.01, reset_after_s=0.1))
    assert life.starts == 4


def test_pauses_double_up_to_a_longest_one():
    assert [RestartPolicy().pause_s(n) for n in (1, 2, 3, 4, 9)] == [1.0, 2.0, 4.0, 8.0, 30.0]


def test_a_crash_for_want_of_memory_is_hinted_at(tmp_path):
    life = Life(
        tmp_path, f"{READY}\ntime.sleep(0.3)\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)", ready_then(0)
    )
    started = time.monotonic()
    life.run()
    assert "exit code 137 (killed; was there enough memory?)" in life.told[1]
    assert time.monotonic() - started < 20
