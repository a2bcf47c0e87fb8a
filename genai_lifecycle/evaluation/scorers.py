"""Scores of a single answer that need no judge model. Pure functions of text."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles (normalisation of SQuAD, Rajpurkar et al. 2016)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, reference: str) -> float:
    """Overlap of words, 0 to 1: harmonic mean of precision and recall (SQuAD's F1). Two empty texts give 1."""
    given, wanted = Counter(words(answer)), Counter(words(reference))
    if not given or not wanted:
        return float(given == wanted)
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total())


def repetition(answer: str, size: int = 3) -> float:
    """Share of word n-grams that occurred before in the same answer, 0 (none) to 1."""
    items = words(answer)
    grams = [tuple(items[i : i + size]) for i in range(len(items) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def succeeded(answer: str, finish_reason: str) -> bool:
    """An answer counts as a success when there is text, it was not cut off by a deadline, and it does not loop."""
    return bool(answer.strip()) and finish_reason in ("stop", "length") and repetition(answer) < 0.5
