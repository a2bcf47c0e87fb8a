"""The answer cache: what was computed is found again, also after a kill in the middle of a line."""

from __future__ import annotations

from genai_lifecycle.evaluation.answer_cache import AnswerCache, key
from genai_lifecycle.evaluation.answers import CaseAnswer

IDENTITY = {"prompt": "p/1", "model": "m-1", "seed": 0}
ANSWER = CaseAnswer("An\u2028answer {x} 🙂", "An answer.", "stop", 3, 41.5, None, 5, "Q: a", 1, 2, 3, 4)


def test_answers_are_found_by_the_next_process(tmp_path):
    AnswerCache(tmp_path, IDENTITY).add([("a", ANSWER), ("b", ANSWER)])
    again = AnswerCache(tmp_path, IDENTITY)
    assert (again.get("a"), again.get("b"), again.get("c"), len(again)) == (ANSWER, ANSWER, None, 2)


def test_another_prompt_model_or_seed_has_another_cache(tmp_path):
    AnswerCache(tmp_path, IDENTITY).add([("a", ANSWER)])
    for change in ({"prompt": "p/2"}, {"model": "m-2"}, {"seed": 1}):
        assert AnswerCache(tmp_path, IDENTITY | change).get("a") is None


def test_half_a_line_of_a_process_that_was_killed_is_dropped(tmp_path):
    cache = AnswerCache(tmp_path, IDENTITY)
    cache.add([("a", ANSWER), ("b", ANSWER)])
    cache.file.write_bytes(cache.file.read_bytes()[:-20])
    again = AnswerCache(tmp_path, IDENTITY)
    assert (again.get("a"), again.get("b")) == (ANSWER, None)
    again.add([("b", ANSWER)])
    assert AnswerCache(tmp_path, IDENTITY).get("b") == ANSWER


def test_the_file_goes_when_all_is_well(tmp_path):
    cache = AnswerCache(tmp_path, IDENTITY)
    cache.add([("a", ANSWER)])
    cache.close()
    assert not cache.file.exists()
    assert AnswerCache(tmp_path, IDENTITY).get("a") is None


def test_the_key_does_not_depend_on_the_order_of_names():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1}) != key({"a": 2, "b": 1})
