"""Scores against values computed by hand."""

from __future__ import annotations

import pytest

from genai_lifecycle.evaluation.scorers import answered, repetition, succeeded, token_f1, words


def test_words_are_normalised_as_squad_does():
    assert words("The Cat's  hat, an   UMBRELLA!") == ["cats", "hat", "umbrella"]
    assert words("theatre anthem A") == ["theatre", "anthem"]


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("The cat sat.", "a cat sat", 1.0),
        ("cat", "dog", 0.0),
        ("cat sat", "cat ran", 0.5),  # precision 1/2, recall 1/2
        ("cat", "cat ran fast", 0.5),  # precision 1, recall 1/3
        ("cat cat cat", "cat", 0.5),  # a word counts as often as it occurs: precision 1/3, recall 1
        ("", "cat", 0.0),
        ("cat", "the", 0.0),
        ("", "the", 1.0),
        ("Überanpassung ist 過学習", "überanpassung, ist 過学習", 1.0),
    ],
)
def test_token_f1(answer, reference, expected):
    assert token_f1(answer, reference) == pytest.approx(expected)
    assert token_f1(reference, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("one two three four", 0.0),
        ("x y z x y z", 0.25),  # of four 3-grams one repeats
        ("go go go go go", 2 / 3),  # three 3-grams, two of them repeat
    ],
)
def test_repetition(answer, expected):
    assert repetition(answer) == pytest.approx(expected)


def test_success_is_text_that_ended_by_itself_and_does_not_loop():
    assert succeeded("An answer.", "stop") and succeeded("An answer", "length")
    assert not succeeded(" \n", "stop")
    assert not succeeded("An answer", "timeout") and not succeeded("An answer", "cancelled")
    assert not succeeded("go go go go go", "length")


LOOP = [8, 9, 10, 11, 12] * 19  # a phrase of five tokens, over and over


@pytest.mark.parametrize(
    ("answer", "reason", "tokens", "expected"),
    [
        ("Yes", "stop", [1], True),
        ("I don't know. I don't know. I don't", "length", LOOP, True),  # as an untuned GPT-2 says
        ("ha ha ha ha", "stop", [7, 7, 7, 7], True),
        ("a  b  c", "length", [1, 5, 5, 2, 5, 5, 3, 5, 5, 4], True),  # indented code: spaces in a row
        ("", "stop", [], False),
        (" \n\n", "length", [3, 4, 3, 4, 3, 4, 3, 4], False),
        ("cut off by a deadline", "timeout", [1, 2, 3], False),
        ("cut off by its caller", "cancelled", [1, 2, 3], False),
        ("per per per", "length", [5] * 96, False),
        ("tots random per per per", "length", [1, 1, 2, 2, *[5] * 92], False),  # as random weights say
    ],
)
def test_an_answer_is_text_that_was_not_cut_off_and_is_not_one_token_over_and_over(answer, reason, tokens, expected):
    assert answered(answer, reason, tokens) is expected
