"""The judge, asked through a real local server that speaks OpenAI's chat completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from stand_in_judge import Judge, judging

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.evaluation.judges import choose
from genai_lifecycle.store import evaluations

MODEL = "openai:/judge"


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    with judging(monkeypatch) as server:
        yield server


def test_a_judge_that_answers_one_question_is_asked_about_the_answers(server):
    found = choose((), MODEL)
    assert found.summary == "Correctness, RelevanceToQuery by openai:/judge"
    assert [scorer.name for scorer in found.scorers] == ["correctness", "relevance_to_query"]
    assert [path for path, _ in server.asked] == ["/v1/chat/completions"]
    assert found.summary_with(3).endswith("; 3 answers were not judged") and found.summary_with(0) == found.summary


def test_scorers_that_were_named_are_taken_as_they_are(server):
    assert choose(("PIIDetection",), None).summary == "PIIDetection"
    assert choose(("Correctness",), MODEL).summary == "Correctness by openai:/judge"
    assert server.asked == []
    with pytest.raises(ConfigError, match="needs a judge"):
        choose(("Correctness",), None)


def test_skipped_with_the_reason_where_none_is_configured(server, monkeypatch):
    assert choose((), None).summary == "skipped: no judge model is configured (--judge-model or LIFECYCLE_JUDGE_MODEL)"
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY is not set" in choose((), MODEL).summary
    assert server.asked == []


GARBAGE = ["I like it.", "{}", "[]", '{"result": null}', '{"result": "perhaps", "rationale": ""}']


@pytest.mark.parametrize(("status", "content"), [(401, None), *((200, content) for content in GARBAGE)])
def test_a_judge_that_answers_something_else_is_skipped_and_harms_nothing(server, status, content, caplog):
    server.status, server.content = status, content
    found = choose((), MODEL)
    assert found.summary.startswith("skipped: openai:/judge failed: ") and found.scorers == ()
    assert "The judge openai:/judge failed: " in caplog.text


@pytest.mark.parametrize("broken", ["500", "gone", "silent"])
def test_a_judge_that_does_not_answer_is_not_waited_for(server, monkeypatch, broken):
    monkeypatch.setattr(evaluations, "JUDGE_TIMEOUT_S", 1.0)
    server.status = 500
    if broken == "gone":
        server.shutdown()
        server.server_close()
    if broken == "silent":
        monkeypatch.setattr(Judge, "do_POST", lambda self: time.sleep(5))
    started = time.monotonic()
    assert choose((), MODEL).summary == "skipped: openai:/judge failed: no answer within 1 s"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("model", ["judge", "nobody:/x", "openai:/"])
def test_an_address_that_is_none(server, model):
    assert choose((), model).summary.startswith(f"skipped: {model} failed: ")
