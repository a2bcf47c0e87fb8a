"""A server as a child: whatever happens to us, to it or to the guard, nothing of it is left. Real processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import stand_in_server
from stand_in_server import free_port, is_alive, wait_until, wait_until_gone

from genai_lifecycle.errors import ConfigError, StorageFailed
from genai_lifecycle.serving import processes
from genai_lifecycle.serving.processes import (
    ServerFailed,
    ServerProcess,
    ask,
    is_port_taken,
    last_lines,
    new_log,
    sigterm_as_ctrl_c,
    url_from_here,
    wait_until_ready,
)

pytestmark = pytest.mark.slow


REPO = Path(__file__).resolve().parents[3]
# Runs a server as we do, until a signal or an error of its own ends it.
STARTER = """
import os, signal, sys, time
from pathlib import Path
from genai_lifecycle.serving.processes import ServerProcess, sigterm_as_ctrl_c
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
port, log, end = sys.argv[1:4]
with sigterm_as_ctrl_c(), ServerProcess(sys.argv[4:], Path(log), {"HOST": "127.0.0.1", "PORT": port}, 0.5) as server:
    print(server.group, flush=True)
    if end == "crash":
        input()
        os.abort()
    server.wait()
"""


class Started:
    """A stand-in server on a free port."""

    def __init__(self, folder: Path, behaviour: str = "", grace_s: float = 0.5):
        self.port = free_port()
        environment = {"HOST": "127.0.0.1", "PORT": str(self.port), "STAND_IN": behaviour}
        command = [sys.executable, stand_in_server.__file__]
        self.server = ServerProcess(command, new_log(folder, f"{self.port}.log"), environment, grace_s)

    def is_ready(self) -> bool:
        return ask(f"http://127.0.0.1:{self.port}/health/ready")[0] == 200

    def wait_ready(self, timeout_s: float = 15.0) -> None:
        wait_until_ready(self.server, self.is_ready, "the stand-in", timeout_s)


@pytest.fixture
def start(tmp_path):
    started = []

    def make(behaviour: str = "", grace_s: float = 0.5) -> Started:
        started.append(Started(tmp_path, behaviour, grace_s))
        return started[-1]

    yield make
    for one in started:
        one.server._kill()
        one.server.stop()


def pids(log_file: Path) -> list[int]:
    return [int(line.split()[1]) for line in log_file.read_text().splitlines() if line.startswith(("server", "engine"))]


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- an orderly life ------------------------------------------------------------------------------


def test_a_polite_server_becomes_ready_and_ends_when_asked(start):
    one = start(grace_s=30)
    one.wait_ready()
    assert one.server.poll() is None
    asked = time.monotonic()
    one.server.stop()
    assert one.server.poll() == 0
    assert time.monotonic() - asked < 10, "it was killed after the grace period instead of asked"
    assert not is_port_taken("127.0.0.1", one.port)


def test_a_server_that_does_not_listen_to_sigterm_is_killed_with_its_engine(start):
    one = start("stubborn engine")
    one.wait_ready()
    one.server.stop()
    assert one.server.poll() == 128 + signal.SIGKILL
    wait_until_gone(pids(one.server.log_file))


def test_a_second_ctrl_c_shortens_the_grace_period(start):
    one = start("stubborn", grace_s=300)
    one.wait_ready()
    with sigterm_as_ctrl_c():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        one.server.stop()
    wait_until_gone([one.server.group])


def test_the_block_ends_the_server_also_after_an_error(start):
    one = start()
    with pytest.raises(RuntimeError), one.server:
        one.wait_ready()
        raise RuntimeError
    wait_until_gone([one.server.group])


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "crash"])
def test_nothing_is_left_when_we_end(tmp_path, death):
    port, log_file = free_port(), tmp_path / "server.log"
    command = [sys.executable, stand_in_server.__file__]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(port), str(log_file), death, *command],
        cwd=REPO,
        env=os.environ | {"STAND_IN": "stubborn engine"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    group = int(starter.stdout.readline())
    wait_until(lambda: ask(f"http://127.0.0.1:{port}/")[0] == 200)
    left = pids(log_file)
    assert len(left) == 2 and all(map(is_alive, left)) and os.getpgid(left[1]) == group
    if death == "crash":
        starter.communicate("now\n")
    else:
        starter.send_signal(getattr(signal, death))
    starter.wait(15)
    wait_until_gone(left)
    wait_until(lambda: not group_exists(group))


def test_an_engine_does_not_outlive_its_killed_server(start):
    one = start("engine")
    one.wait_ready()
    os.kill(one.server.group, signal.SIGKILL)
    assert one.server.wait() == 128 + signal.SIGKILL
    wait_until_gone(pids(one.server.log_file))


def test_a_killed_guard_leaves_nothing_either(start):
    one = start("stubborn engine")
    one.wait_ready()
    one.server._guard.kill()
    assert one.server.wait() == -signal.SIGKILL
    wait_until_gone(pids(one.server.log_file))


def test_the_guard_is_out_of_reach_of_our_terminal(start):
    guard = start().server._guard.pid
    assert os.getsid(guard) == guard != os.getsid(0)  # Ctrl-Z would stop it, and a stopped guard guards nothing


def test_a_signal_to_the_guard_ends_the_server_well(start):
    one = start()
    one.wait_ready()
    one.server._guard.terminate()
    assert one.server.wait() == 0


# --- ready, or why not ----------------------------------------------------------------------------


def test_a_server_that_ends_early_is_told_with_its_last_words(start):
    with pytest.raises(ServerFailed, match="exit code 1 before it was ready") as caught:
        start("broken").wait_ready()
    assert "MLFLOW_MODEL_URI names no model." in str(caught.value)
    assert ".log" in caught.value.hint


def test_a_server_that_is_never_ready_meets_its_deadline(start):
    one = start()
    with pytest.raises(ServerFailed, match="not ready within 1 s"):
        wait_until_ready(one.server, lambda: False, "the stand-in", 1.0)


def test_an_answer_of_another_server_does_not_count(start, tmp_path):
    other = start()
    other.wait_ready()
    ended = ServerProcess([sys.executable, "-c", "print('taken')"], tmp_path / "ended.log", {}, 0.5)
    with ended, pytest.raises(ServerFailed, match="exit code 0 before"):
        ended.wait()
        wait_until_ready(ended, other.is_ready, "the second", 15.0)


def test_a_server_that_ends_while_it_is_asked_is_not_ready(start):
    one = start()
    with pytest.raises(ServerFailed, match="before it was ready"):
        wait_until_ready(one.server, lambda: one.server.stop() is None, "the stand-in", 15.0)


def test_a_program_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(ServerFailed, match="no-such-program cannot be started: No such file"):
        ServerProcess(["no-such-program"], tmp_path / "log", {}, 0.5)


def test_waiting_writes_plain_lines_where_there_is_no_terminal(start, monkeypatch, caplog):
    monkeypatch.setattr(processes, "PLAIN_LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "genai_lifecycle"):
        start().wait_ready()
    assert "Waiting for the stand-in: 0 s" in caplog.messages


# --- ports, answers, logs -------------------------------------------------------------------------


def test_a_port_is_taken_while_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert is_port_taken("127.0.0.1", port)
        assert is_port_taken("0.0.0.0", port)
    assert not is_port_taken("127.0.0.1", port)


def test_a_port_is_free_right_after_a_server_with_open_connections():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()  # our side closes first: TIME_WAIT
    assert not is_port_taken("127.0.0.1", port)


def test_a_port_is_taken_on_an_ipv6_address_too():
    needs_ipv6()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        assert is_port_taken("::1", port) and not is_port_taken("127.0.0.1", port)
    assert not is_port_taken("::1", port)


def needs_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1", "2001:db8::1"])
def test_a_host_that_is_no_address_of_this_machine_is_a_setting_error(host):
    with pytest.raises(ConfigError, match=f"'{host}'"):
        is_port_taken(host, free_port())


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:5001"), ("0.0.0.0", "http://127.0.0.1:5001"), ("::1", "http://[::1]:5001"),
        ("::", "http://[::1]:5001"), ("model.example", "http://model.example:5001"),
    ],
)  # fmt: skip
def test_the_address_of_a_server(host, url):
    assert url_from_here(host, 5001) == url


def test_a_port_below_1024_without_rights_is_a_setting_error(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(socket.socket, "bind", refuse)  # the tests may run as root
    with pytest.raises(ConfigError, match="Port 80 needs special rights"):
        is_port_taken("127.0.0.1", 80)


def test_a_local_server_is_never_asked_through_a_proxy(start, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    start().wait_ready()


def test_nothing_and_nonsense_are_no_answer():
    assert ask(f"http://127.0.0.1:{free_port()}/") == (0, b"")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].sendall(b"220 mail\r\n"), daemon=True).start()
        assert ask(f"http://127.0.0.1:{listener.getsockname()[1]}/") == (0, b"")


def test_a_new_log_keeps_the_one_before(tmp_path):
    new_log(tmp_path / "logs", "x.log").write_text("first")
    assert new_log(tmp_path / "logs", "x.log").read_text() == ""
    assert (tmp_path / "logs" / "x.log.1").read_text() == "first"


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        new_log(tmp_path / "file", "x.log")
    with pytest.raises(StorageFailed):
        ServerProcess(["true"], tmp_path / "missing" / "x.log", {}, 0.5)


def test_last_lines_are_few_and_never_nothing(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % i for i in range(100)))
    assert last_lines(path).splitlines()[-1] == "    line 99"
    assert len(last_lines(path).splitlines()) == processes.LAST_LINES
    path.write_text("\n")
    assert last_lines(path) == "    (it printed nothing)"
