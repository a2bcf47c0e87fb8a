"""Stands between us and a server, so that the server never outlives us. Standard library only.

Run as a file with `python -I guard.py GRACE_S COMMAND...` by `processes.py`, which holds the other end of its
standard input and never writes to it: end-of-file means that we are gone, be it orderly or by kill -9. It
prints the process id of COMMAND, which is also the id of its process group, and leaves when the group is empty.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

NOT_STARTED = 127  # as a shell says "command not found"
KILLED_PATIENCE_S = 5.0  # a killed process is gone at once, unless the kernel is busy with its memory
POLL_S = 0.05
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(grace_s: float, command: list[str]) -> int:
    """Run `command` until it ends or our starter does; returns its exit code, 128 + number after a signal."""
    _adopt_orphans()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0)
    except OSError as exc:
        sys.stderr.write(f"{command[0]} cannot be started: {exc.strerror}\n")
        return NOT_STARTED
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: send(child.pid, signal.SIGTERM))
    threading.Thread(target=end_with_starter, args=(child.pid, grace_s), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # gone already: the thread has seen it too
        os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
    code = child.wait()
    end(child.pid, grace_s)  # what the command has left behind
    return code if code >= 0 else 128 - code


def end_with_starter(group: int, grace_s: float) -> None:
    """Wait for the end of our starter, then end the group."""
    os.read(sys.stdin.fileno(), 1)
    send(group, signal.SIGTERM)
    time.sleep(grace_s)
    send(group, signal.SIGKILL)


def end(group: int, grace_s: float) -> None:
    """Ask the group to end, kill what has not after `grace_s` seconds, and wait until it is empty."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILLED_PATIENCE_S)):
        deadline = time.monotonic() + patience_s
        alive = send(group, number)
        while alive and time.monotonic() < deadline:
            time.sleep(POLL_S)
            _reap(group)
            alive = send(group, 0)


def send(group: int, number: int) -> bool:
    """Send a signal (0 = none) to every process of the group; False when it is empty."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies only
        return False
    return True


def _adopt_orphans() -> None:
    """Make orphans of the group ours, where that exists: a container's first process may never reap them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(group: int) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
