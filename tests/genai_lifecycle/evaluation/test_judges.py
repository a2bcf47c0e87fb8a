"""The judge, asked through a real local server that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from stand_in_judge import Judge, judging

from genai_lifecycle.evaluation import judges
from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.evaluation.judges import judge

ANSWERS = [(Case("What is 1?", "One."), "One."), (Case("What is 2?", "Two."), "Three.")]
MODEL = "openai:/judge"


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    with judging(monkeypatch) as server:
        yield server


def test_the_judge_is_asked_about_every_answer(server):
    judged = judge(MODEL, ANSWERS)
    assert judged.metrics == {"judge_correctness": 0.5, "judge_relevance": 0.5}
    assert judged.summary == "openai:/judge: correctness 0.50, relevance 0.50 over 2 answers"
    assert {path for path, _ in server.asked} == {"/v1/chat/completions"}
    assert len(server.asked) == 4
    assert "What is 1?" in json.dumps(server.asked[0][1]) and "One." in json.dumps(server.asked[0][1])


def test_skipped_with_the_reason_where_none_is_configured(server, monkeypatch):
    assert judge(None, ANSWERS).summary == (
        "skipped: no judge model is configured (--judge-model or LIFECYCLE_JUDGE_MODEL)"
    )
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY is not set" in judge(MODEL, ANSWERS).summary
    assert server.asked == []


GARBAGE = ["I like it.", "{}", "[]", '{"result": null}', '{"result": "perhaps", "rationale": ""}']


@pytest.mark.parametrize(("status", "content"), [(401, None), *((200, content) for content in GARBAGE)])
def test_a_judge_that_answers_something_else_is_told_and_harms_nothing(server, status, content, caplog):
    server.status, server.content = status, content
    judged = judge(MODEL, ANSWERS)
    assert judged.summary.startswith("failed after 0 of 2 answers: ")
    assert judged.metrics == {}
    assert "The judge openai:/judge failed after 0 of 2 answers" in caplog.text


@pytest.mark.parametrize("broken", ["500", "gone", "silent"])
def test_a_judge_that_does_not_answer_is_not_waited_for(server, monkeypatch, broken):
    monkeypatch.setattr(judges, "REPLY_TIMEOUT_S", 1.0)
    server.status = 500
    if broken == "gone":
        server.shutdown()
        server.server_close()
    if broken == "silent":
        monkeypatch.setattr(Judge, "do_POST", lambda self: time.sleep(5))
    started = time.monotonic()
    assert judge(MODEL, ANSWERS).summary == "failed after 0 of 2 answers: no answer within 1 s"
    assert time.monotonic() - started < 5


def test_what_was_judged_before_the_failure_is_counted(server):
    answers = [*ANSWERS, (Case("What is 3?", "Three!"), "perhaps")]
    plain = Judge.do_POST

    class Tired(Judge):
        def do_POST(self):
            self.server.content = "tired" if len(self.server.asked) >= 4 else None
            plain(self)

    server.RequestHandlerClass = Tired
    assert judge(MODEL, answers).summary.startswith("failed after 2 of 3 answers: ")


@pytest.mark.parametrize("model", ["judge", "nobody:/x", "openai:/"])
def test_an_address_that_is_none(server, model):
    assert judge(model, ANSWERS).summary.startswith("failed after 0 of 2 answers: ")
