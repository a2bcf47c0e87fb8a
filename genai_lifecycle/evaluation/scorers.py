"""Scores of a single answer that need no judge model. Pure functions of text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+")
STUTTER_TOKENS = 8  # a shorter answer may well be "ha ha ha"


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles (normalisation of SQuAD, Rajpurkar et al. 2016)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, reference: str) -> float:
    """Overlap of words, 0 to 1: harmonic mean of precision and recall (SQuAD's F1). Two empty texts give 1."""
    return _overlap(words(answer), words(reference))


def exact_match(answer: str, reference: str) -> float:
    """1 when both have the same words in the same order (SQuAD's exact match), else 0."""
    return float(words(answer) == words(reference))


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L, 0 to 1: longest common subsequence of words as an F-measure with beta 1 (Lin 2004, section 3)."""
    from rapidfuzz.distance import LCSseq

    predicted, expected = _rouge_words(answer), _rouge_words(reference)
    return _f_measure(LCSseq.similarity(predicted, expected), len(predicted), len(expected))


def rouge_n(answer: str, reference: str) -> float:
    """ROUGE-1, 0 to 1: shared words as an F-measure with beta 1 (Lin 2004, section 2); promptfoo calls it rouge-n."""
    return _overlap(_rouge_words(answer), _rouge_words(reference))


def _rouge_words(text: str) -> list[str]:
    """Lower-case words; of every script, where Google's rouge-score knows a to z only."""
    return _WORD.findall(text.lower())


def _overlap(predicted: Sequence[str], expected: Sequence[str]) -> float:
    shared = (Counter(predicted) & Counter(expected)).total()
    return _f_measure(shared, len(predicted), len(expected))


def _f_measure(shared: int, predicted: int, expected: int) -> float:
    return 2 * shared / (predicted + expected) if predicted and expected else float(predicted == expected)


def levenshtein(answer: str, reference: str) -> int:
    """Characters to insert, delete or replace to turn one into the other (Levenshtein 1966)."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(answer, reference)


def repetition(answer: str, size: int = 3) -> float:
    """Share of word n-grams that occurred before in the same answer, 0 (none) to 1."""
    items = words(answer)
    grams = [tuple(items[i : i + size]) for i in range(len(items) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def succeeded(answer: str, finish_reason: str) -> bool:
    """An answer counts as a success when there is text, it was not cut off by a deadline, and it does not loop."""
    return bool(answer.strip()) and finish_reason in ("stop", "length") and repetition(answer) < 0.5


def answered(answer: str, finish_reason: str, token_ids: Sequence[int]) -> bool:
    """Whether there is an answer at all, good or bad: text, which the model itself ended or which filled its length,
    and which is not one token over and over. Phrases that loop, as an untuned GPT-2's do, are an answer."""
    return bool(answer.strip()) and finish_reason in ("stop", "length") and not _stutters(token_ids)


def _stutters(token_ids: Sequence[int]) -> bool:
    """Whether three quarters of the tokens repeat the one right before them.

    Random weights do so in 80 to 100 %, since GPT-2's output layer is its input embedding; trained ones in about none.
    """
    repeated = sum(before == after for before, after in pairwise(token_ids))
    return len(token_ids) >= STUTTER_TOKENS and repeated > 0.75 * (len(token_ids) - 1)


AGAINST_REFERENCE = {"token_f1": token_f1, "rouge_l": rouge_l, "exact_match": exact_match}  # each 0 to 1
