"""The ledger as the server writes it, and as a killed server leaves it."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.monitoring.feedback_ledger import read_ledger
from genai_server.feedback import ledger as server
from genai_server.feedback.keeper import FeedbackKeeper

SAID = {"request_id": "r-1", "name": "helpful", "value": True, "comment": "klar 🙂", "source": "ann"}


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "feedback.jsonl"


def keep(path, *ids):
    keeper = FeedbackKeeper(path, False, "serving")
    for name in ids:
        asyncio.run(keeper.keep(SAID | {"request_id": name}))


def test_what_the_server_wrote_is_read(ledger):
    keep(ledger, "r-1", "r-2")
    content = read_ledger(ledger)
    assert [entry.request_id for entry in content.entries] == ["r-1", "r-2"]
    entry = content.entries[0]
    assert (entry.name, entry.value, entry.comment, entry.source) == ("helpful", True, "klar 🙂", "ann")
    assert entry.time_ms == int(json.loads(ledger.read_text("utf-8").splitlines()[0])["time"] * 1000)
    assert (content.unreadable, content.is_half_written) == ((), False)


def test_full_parts_are_read_too_oldest_first_and_entries_keep_their_ids(ledger, monkeypatch):
    keep(ledger, "r-1")
    before = read_ledger(ledger).entries
    monkeypatch.setattr(server, "LIMIT_BYTES", 10)
    monkeypatch.setattr(server, "MOST_PARTS", 20)
    names = [f"r-{number}" for number in range(2, 14)]
    keep(ledger, *names)
    after = read_ledger(ledger).entries
    assert ledger.with_name("feedback.jsonl.12").exists()  # 12 comes after 9
    assert [entry.request_id for entry in after] == ["r-1", *names] and after[0] == before[0]


def test_what_an_earlier_server_left_elsewhere_is_read_once_also_while_it_is_moved(ledger, tmp_path):
    former = tmp_path / "former" / "feedback.jsonl"
    keep(former, "r-1")
    former.rename(former.with_name("feedback.jsonl.1"))
    keep(former, "r-2")
    keep(ledger, "r-3")
    ids = [entry.request_id for entry in read_ledger(ledger, former).entries]
    assert ids == ["r-1", "r-2", "r-3"]
    shutil.copy(former, ledger.with_name("feedback.jsonl.1"))  # seen at both places
    assert [entry.request_id for entry in read_ledger(ledger, former).entries] == ids
    server.Ledger(ledger).absorb(former)
    assert sorted(entry.request_id for entry in read_ledger(ledger, former).entries) == ids
    assert len(read_ledger(ledger).entries) == 3


def test_a_half_written_last_line_is_left_for_next_time(ledger):
    keep(ledger, "r-1", "r-2")
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-10])
    content = read_ledger(ledger)
    assert len(content.entries) == 1 and content.is_half_written and content.unreadable == ()
    ledger.write_bytes(whole)
    assert len(read_ledger(ledger).entries) == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"request_id": "", "name": "n", "source": "s", "time": 1}', "request_id is ''"),
        ("{nonsense", "not valid JSON"), ("[1]", "the content is [1]"), ("", "not valid JSON"),
        ('{"request_id": "a", "name": "n", "source": "s"}', "time is missing"),
        ('{"request_id": 3, "name": "n", "source": "s", "time": 1}', "request_id is 3"),
        ('{"request_id": "a", "name": "n", "source": "s", "time": Infinity}', "time is inf"),
        ('{"request_id": "a", "name": "n", "source": "s", "time": 1, "value": [1]}', "has a list or an object"),
        ('{"request_id": "a", "name": "\\ud83d", "source": "s", "time": 1}', "not valid JSON"),
        ("\udcff", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named_and_the_others_are_read(ledger, line, problem):
    keep(ledger, "r-1")
    with ledger.open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    keep(ledger, "r-2")
    content = read_ledger(ledger)
    assert [entry.request_id for entry in content.entries] == ["r-1", "r-2"]
    (sentence,) = content.unreadable
    assert sentence.startswith("feedback.jsonl, line 2: ") and problem in sentence


def test_no_ledger_is_an_empty_one_and_a_folder_is_none(ledger):
    assert read_ledger(ledger).entries == ()
    ledger.mkdir()
    with pytest.raises(StorageFailed, match="cannot be read"):
        read_ledger(ledger)
