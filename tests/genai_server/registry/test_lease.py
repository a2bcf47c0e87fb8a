"""When a claim counts: while its process lives and its time is not up. The races are in tests/hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from genai_server.registry import lease as module
from genai_server.registry.lease import PREFIX, Lease, LeaseLost, LeaseTaken, claims


class Tags(dict):
    """Tags that nobody else sees."""

    def tags(self) -> dict[str, str]:
        return dict(self)

    set_tag, delete_tag = dict.__setitem__, dict.pop


@pytest.fixture
def tags() -> Tags:
    return Tags()


def taken(tags: Tags, for_s: float = 60.0) -> Lease:
    lease = Lease(tags, for_s)
    lease.take(patience_s=0)
    return lease


def rewrite(tags: Tags, **fields: object) -> None:
    """As if somebody else had written the one claim."""
    ((key, claim),) = claims(tags).items()
    tags[key] = json.dumps(asdict(replace(claim, **fields)))


def test_one_at_a_time(tags):
    first = taken(tags)
    with pytest.raises(LeaseTaken, match=f"process {os.getpid()} on "):
        taken(tags)
    first.release()
    taken(tags).release()
    assert tags == {}


def test_a_process_that_was_killed_holds_nobody_up(tags):
    taken(tags).note({"what": "a move"})
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    rewrite(tags, pid=child.pid, started=module._started(child.pid))
    with pytest.raises(LeaseTaken, match=f"process {child.pid} on"):
        taken(tags)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # gone, and its parent has not asked for it yet
    lease = taken(tags)
    assert list(lease.abandoned.values()) == [{"what": "a move"}]
    child.wait()
    lease.forget(*lease.abandoned)
    lease.release()
    assert tags == {}


def test_a_later_process_of_the_same_number_is_another_one(tags):
    taken(tags)
    rewrite(tags, started="long ago")
    taken(tags)


def test_elsewhere_the_clock_decides(tags):
    taken(tags)
    rewrite(tags, host="elsewhere", pid=1)
    with pytest.raises(LeaseTaken, match="process 1 on elsewhere"):
        taken(tags)
    rewrite(tags, host="elsewhere", until_ms=1)
    taken(tags)


def test_who_had_it_for_too_long_is_told(tags):
    lease = taken(tags, for_s=0)
    with pytest.raises(LeaseLost):
        lease.require()
    lease.leave()  # it may be another's by now, so nothing is touched
    assert len(tags) == 1


def test_renewed_until_another_has_it(tags):
    lease = taken(tags, for_s=0)
    assert lease.renew()
    other = taken(tags)
    other.forget(*other.abandoned)
    assert not lease.renew() and list(other.abandoned) == []


def test_after_an_error_a_note_stays_for_the_next_one(tags):
    taken(tags).leave()
    assert tags == {}
    lease = taken(tags)
    lease.note({"what": "a move"})
    lease.leave()
    assert list(taken(tags).abandoned.values()) == [{"what": "a move"}]


def test_what_is_no_claim_of_ours_counts_for_nothing(tags):
    tags[f"{PREFIX}x"] = "hello"
    tags["theirs"] = "stays"
    lease = taken(tags)
    lease.forget(*lease.abandoned)
    lease.release()
    assert tags == {"theirs": "stays"}
