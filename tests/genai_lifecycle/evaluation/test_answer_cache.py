"""The ledger: what was computed is found again, also after a kill in the middle of a line."""

from __future__ import annotations

from genai_lifecycle.evaluation.answer_cache import Kept, Ledger, key

IDENTITY = {"prompt": "p/1", "model": "m-1", "seed": 0}
KEPT = Kept("An\u2028answer {x} 🙂", "stop", 5, 3, 41.5, None, "Q: a", 1, 2, 3)


def test_answers_are_found_by_the_next_process(tmp_path):
    Ledger(tmp_path, IDENTITY).add([("a", KEPT), ("b", KEPT)])
    again = Ledger(tmp_path, IDENTITY)
    assert (again.get("a"), again.get("b"), again.get("c"), len(again)) == (KEPT, KEPT, None, 2)


def test_another_prompt_model_or_seed_has_another_ledger(tmp_path):
    Ledger(tmp_path, IDENTITY).add([("a", KEPT)])
    for change in ({"prompt": "p/2"}, {"model": "m-2"}, {"seed": 1}):
        assert Ledger(tmp_path, IDENTITY | change).get("a") is None


def test_half_a_line_of_a_process_that_was_killed_is_dropped(tmp_path):
    ledger = Ledger(tmp_path, IDENTITY)
    ledger.add([("a", KEPT), ("b", KEPT)])
    ledger.file.write_bytes(ledger.file.read_bytes()[:-20])
    again = Ledger(tmp_path, IDENTITY)
    assert (again.get("a"), again.get("b")) == (KEPT, None)
    again.add([("b", KEPT)])
    assert Ledger(tmp_path, IDENTITY).get("b") == KEPT


def test_the_file_goes_when_all_is_well(tmp_path):
    ledger = Ledger(tmp_path, IDENTITY)
    ledger.add([("a", KEPT)])
    ledger.close()
    assert not ledger.file.exists()
    assert Ledger(tmp_path, IDENTITY).get("a") is None


def test_the_key_does_not_depend_on_the_order_of_names():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1}) != key({"a": 2, "b": 1})
