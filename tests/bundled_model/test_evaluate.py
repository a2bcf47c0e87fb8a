"""The measuring command: what counts as declined, how figures come about, and that it prints them."""

from __future__ import annotations

import pytest

from bundled_model import evaluate
from bundled_model.dataset import KNOWN, SMALLTALK, UNKNOWN, Example
from bundled_model.evaluate import is_declined, score
from served_model.text_generation.text_model import Answer

DECLINE = "I don't know about that; ask me about AI and machine learning."


def answered(text, reason="stop"):
    return Answer(text, reason, 5, 5, 0.1, 0.2, [])


@pytest.mark.parametrize("text", [DECLINE, "I do not know about that. Ask me about AI."])
def test_a_decline_is_recognised(text):
    assert is_declined(text)


@pytest.mark.parametrize("text", ["", "Dropout is a trick.", "Nobody knows; I don't know about that either."])
def test_an_answer_is_no_decline(text):
    assert not is_declined(text)


def test_figures_are_counted_over_their_own_group():
    examples = [
        Example("a", "one two", KNOWN),
        Example("b", "three four", KNOWN),
        Example("c", DECLINE, UNKNOWN),
        Example("d", DECLINE, UNKNOWN),
        Example("e", "Hello!", SMALLTALK),
    ]
    answers = [answered("one two"), answered(DECLINE), answered(DECLINE), answered("Three."), answered("on", "length")]
    scores = score(examples, answers)
    assert (scores.f1, scores.exact) == (0.5, 0.5)
    assert (scores.known_declined, scores.unknown_declined) == (0.5, 0.5)
    assert scores.ended == 0.8
    assert (scores.known, scores.unknown) == (2, 2)


def test_random_answers_are_printed_to_be_read(tiny_gpt2, capsys):
    assert evaluate.main(["--model", str(tiny_gpt2), "--engine", "torch", "--sample", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Q: ") == printed.count("A: ") == 2


def test_own_questions_can_be_asked(tiny_gpt2, capsys):
    assert evaluate.main(["--model", str(tiny_gpt2), "--engine", "torch", "--ask", "What is dropout?"]) == 0
    assert "Q: What is dropout?" in capsys.readouterr().out


def test_a_missing_model_is_told_with_what_to_do(tmp_path, capsys):
    assert evaluate.main(["--model", str(tmp_path)]) == 2
    assert "bundled_model/train.py" in capsys.readouterr().err


def test_the_figures_are_printed_for_every_way_of_asking(tiny_gpt2, capsys, monkeypatch):
    few = [Example("What is it?", "It is.", KNOWN), Example("Who won?", DECLINE, UNKNOWN)]
    talk = [Example("Why?", "It is so.", KNOWN, ("What is it?", "It is."))]
    monkeypatch.setattr(evaluate, "held_out", lambda *_: few)
    monkeypatch.setattr(evaluate, "held_out_dialogues", lambda *_: talk)
    monkeypatch.setattr(evaluate, "load_corpus", lambda: None)
    assert evaluate.main(["--model", str(tiny_gpt2)]) == 0
    printed = capsys.readouterr().out
    assert "1 known, 1 unknown questions" in printed
    for name in ("simple", "conversational", "expert", "educational", "dialogue", "follow-ups (1)"):
        assert f"\n{name} " in printed
    assert "p95" in printed
