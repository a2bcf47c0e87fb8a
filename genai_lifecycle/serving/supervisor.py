"""Keeps a server running: starts it again after a crash, later and later, and gives up when that does not help."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from genai_lifecycle.errors import ServerFailed
from genai_lifecycle.serving.processes import ServerProcess, failed


@dataclass(frozen=True)
class RestartPolicy:
    """How often, and how soon, a server that crashed is started again."""

    max_crashes: int = 5  # then it stays down
    first_pause_s: float = 1.0  # doubles with each crash
    longest_pause_s: float = 30.0
    reset_after_s: float = 600.0  # a server that ran this long starts with no crash counted

    def pause_s(self, crashes: int) -> float:
        """Seconds to wait after the crash of this number (1 is the first)."""
        return min(self.first_pause_s * 2 ** (crashes - 1), self.longest_pause_s)


def supervise(
    start: Callable[[], ServerProcess],
    wait_ready: Callable[[ServerProcess], None],
    tell: Callable[[str], None],
    policy: RestartPolicy = RestartPolicy(),
) -> None:
    """Run the server until it ends well, which is exit code 0. Ctrl-C passes through; the server is stopped then.

    Raises:
        ServerFailed: it was not ready at its first start, where trying again would only hide a wrong setting;
            or it crashed `policy.max_crashes` times.
    """
    crashes = 0
    while True:
        started = time.monotonic()
        with start() as server:
            code = _run_once(server, wait_ready, may_fail=crashes > 0)
        if code == 0:
            return
        ran_s = time.monotonic() - started
        crashes = 1 if ran_s >= policy.reset_after_s else crashes + 1
        if crashes >= policy.max_crashes:
            raise failed(server, f"The server crashed {crashes} times, the last time with {describe(code)}.")
        pause_s = policy.pause_s(crashes)
        tell(
            f"The server crashed after {ran_s:.0f} s with {describe(code)}, crash {crashes} of {policy.max_crashes} "
            f"at most; starting it again in {pause_s:g} s. Log: {server.log_file}"
        )
        time.sleep(pause_s)


def _run_once(server: ServerProcess, wait_ready: Callable[[ServerProcess], None], *, may_fail: bool) -> int | None:
    """The exit code of the server; None for one that was still running but never ready."""
    try:
        wait_ready(server)
    except ServerFailed:
        if not may_fail:
            raise
        return server.poll() or None  # 0 before it was ready is no good end
    return server.wait()


def describe(code: int | None) -> str:
    """An exit code in words; 137 is what the kernel leaves when memory ran out."""
    if code is None:
        return "no sign of being ready"
    hint = " (killed; was there enough memory?)" if code == 137 else ""
    return f"exit code {code}{hint}"
