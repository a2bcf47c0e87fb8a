"""Frames, comparisons and slips: varied, still the same question, and the same for the same seed."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import pytest

from bundled_model.phrasings import (
    COMPARISON_FRAMES,
    FIELD_FRAMES,
    FRAMES,
    _with_words_lost,
    bag_of_words,
    compared,
    framed,
    noisy,
    normalised,
)


def test_there_are_many_different_frames():
    assert len({normalised(frame) for frame in FRAMES}) >= 40
    assert all(frame.count("{}") == 1 for frame in (*FRAMES, *FIELD_FRAMES))
    assert all("{a}" in frame and "{b}" in frame for frame in COMPARISON_FRAMES)


def test_case_punctuation_and_spaces_make_no_other_phrasing():
    assert normalised("  What's  F1-score?! ") == normalised("whats f1score")
    assert normalised("What is F1?") != normalised("What is F2?")


def test_a_frame_holds_the_name_with_or_without_its_article():
    rng = random.Random(0)
    drawn = [framed("a model registry", rng) for _ in range(300)]
    assert all("model registry" in text for text in drawn)
    assert 0.1 < sum("a model registry" not in text for text in drawn) / len(drawn) < 0.4
    assert len(set(drawn)) > 60


def test_unknown_names_get_no_frame_that_speaks_of_the_field():
    rng = random.Random(0)
    texts = " ".join(framed("a banana", rng) for _ in range(2000))
    assert "machine learning" not in texts and "AI" not in texts


def test_a_comparison_is_asked_both_ways_round():
    rng = random.Random(0)
    drawn = [compared("precision vs recall", rng) for _ in range(200)]
    first = [text.index("precision") < text.index("recall") for text in drawn]
    assert 0.3 < sum(first) / len(first) < 0.7
    assert len(set(drawn)) > len(COMPARISON_FRAMES)


@pytest.mark.parametrize("name", ["overfitting", "a support vector machine"])
def test_other_names_are_not_compared(name):
    assert compared(name, random.Random(0)) is None


def test_slips_leave_the_question_recognisable():
    question, rng = "How does gradient descent work?", random.Random(0)
    drawn = [noisy(question, rng) for _ in range(500)]
    assert 0.1 < drawn.count(question) / len(drawn) < 0.6
    assert len(set(drawn)) > 150
    for text in drawn:
        blocks = SequenceMatcher(None, question.lower(), text.lower(), autojunk=False).get_matching_blocks()
        # "how" and "does" carry no topic, and may be left out
        assert sum(block.size for block in blocks) >= len("gradient descent work") - 4, text


def test_a_long_question_may_lose_words_and_never_gets_others():
    question, rng = "the robot gets points for good actions and learns from them", random.Random(0)
    shorter = [text for text in (_with_words_lost(question, rng) for _ in range(300)) if text != question]
    assert shorter
    for text in shorter:
        left = iter(question.split())
        assert all(word in left for word in text.split()) and len(text.split()) >= 4


def test_a_short_question_loses_no_word():
    rng = random.Random(0)
    assert {_with_words_lost("What is overfitting in statistics?", rng) for _ in range(100)} == {
        "What is overfitting in statistics?"
    }


def test_a_bag_of_words_has_words_of_the_two_phrasings_only():
    question, other, rng = "the robot gets points for good actions", "learning from rewards", random.Random(0)
    drawn = [bag_of_words(question, other, rng).split() for _ in range(300)]
    assert all(len(words) >= 3 and set(words) <= {*question.split(), *other.split()} for words in drawn)
    moved = [words for words in drawn if words != sorted(words, key=[*question.split(), *other.split()].index)]
    assert len(drawn) / 4 < len(moved) < len(drawn) * 3 / 4
    assert any({"good", "rewards"} <= set(words) for words in drawn)
    assert min(map(len, drawn)) < 4 and [] not in drawn


def test_the_same_seed_asks_the_same():
    def some(seed):
        rng = random.Random(seed)
        return [noisy(framed("dropout", rng), rng) for _ in range(20)]

    assert some(1) == some(1) != some(2)


@pytest.mark.parametrize("text", ["a", "why", "AI?", "Überanpassung — was?", "日本語"])
def test_short_and_foreign_texts_survive(text):
    rng = random.Random(0)
    assert all(noisy(text, rng).strip() for _ in range(200))
