"""More ways to ask: question frames around a name, and the slips of people who type fast.

Pure functions of text and a random.Random, so that training is the same for the same seed.
"""

from __future__ import annotations

import random
import re

# `{}` is a name that fits into "What is ___?"; most names bring their article.
FRAMES = (
    "What is {}?", "What is {}?", "What's {}?", "whats {}", "what is {}", "What exactly is {}?", "What are {}?",
    "Explain {}.", "Explain {} to me.", "explain {}", "Can you explain {}?", "Could you explain {} in simple words?",
    "Explain {} in simple terms.", "Explain briefly what {} is.", "explain what {} means", "Explain how {} works.",
    "Can you explain how {} works?", "How does {} work?", "how does {} work", "how do {} work", "How {} works",
    "Tell me about {}.", "tell me about {}", "Tell me what {} is.", "Can you tell me what {} is?",
    "Can you tell me about {}?", "Do you know what {} is?", "What do you know about {}?", "Tell me more about {}.",
    "Why do we use {}?", "Why do people use {}?", "why use {}", "Why would I use {}?", "Why would anyone need {}?",
    "Why do we need {}?", "why is {} important", "Why is {} useful?", "Why does {} matter?", "When should I use {}?",
    "When do I need {}?", "when is {} used", "What is {} used for?", "what is {} for", "What is {} good for?",
    "What is the purpose of {}?", "What is the point of {}?", "What is the idea behind {}?", "What is the use of {}?",
    "What is the benefit of {}?", "What are the benefits of {}?", "what does {} do", "What does {} mean?",
    "what does {} mean", "What is meant by {}?", "What do people mean by {}?", "meaning of {}", "{} meaning",
    "{} definition", "definition of {}", "Define {}.", "define {}", "{}?", "{}", "{} explained", "{} explanation",
    "Describe {}.", "describe {} briefly", "Give me a short explanation of {}.", "Give me the definition of {}.",
    "What should I know about {}?", "I want to learn about {}.", "I don't understand {}.", "I do not get {}, help",
    "I heard about {}, what is it?", "Somebody mentioned {} yesterday. What is that?", "So what is {}, then?",
    "In short, what is {}?", "Teach me about {}.", "Help me understand {}.", "How is {} used?", "How do I use {}?",
    "how do you use {}", "How would you explain {} to a beginner?", "Is {} useful?", "a quick introduction to {}",
    "Please describe {} for a beginner.", "{}: what is it?", "{} - what does that mean?",
    "I would like to know what {} is.", "What makes {} useful?", "who uses {}", "what's the deal with {}",
)  # fmt: skip
# Only around names of the field: they say themselves that the question belongs here.
FIELD_FRAMES = (
    "What is {} in machine learning?", "what does {} mean in AI", "What is {} in the context of AI?",
    "How is {} used in machine learning?", "Why is {} important in machine learning?", "{} in machine learning",
    "what is {} in ML",
)  # fmt: skip
COMPARISON_FRAMES = (
    "{a} vs {b}", "{a} versus {b}", "{a} or {b}?", "{a} or {b}, which one?", "{a} and {b}, what is the difference?",
    "What is the difference between {a} and {b}?", "difference between {a} and {b}", "{a} {b} difference",
    "how is {a} different from {b}", "How does {a} differ from {b}?", "how do {a} and {b} differ",
    "compare {a} and {b}", "Compare {a} with {b}.", "Explain the difference between {a} and {b}.",
    "{a} compared to {b}", "is {a} the same as {b}",
    "Are {a} and {b} the same thing?", "When should I use {a} and when {b}?", "should I use {a} or {b}",
    "which is better, {a} or {b}?", "{a} vs. {b}: what is the difference?", "I mix up {a} and {b}, help",
    "whats the difference between {a} and {b}", "Why use {a} instead of {b}?",
)  # fmt: skip
OPENERS = (
    "please ", "hi, ", "Hello, ", "hey, ", "hey ", "Please, ", "ok, ", "Okay, so ", "so ", "Quick question: ", "um, ",
    "Can you tell me: ", "Could you please tell me: ", "I would like to know: ", "sorry, ", "well, ", "Good morning, ",
)  # fmt: skip
CLOSERS = (
    " please", " pls", ", please", ", please?", " thanks", ", thanks", " plz", " in short", " in simple words", "??",
    "!", " ...",
)  # fmt: skip
SMALL_WORDS = frozenset(
    "a an the is are was be do does did i me my you your we our it its this that these those there to of for in on at"
    " by with as and so just really some any can could would should will what how which when have has had get".split()
)
_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo",
    "j": "hk", "k": "jl", "l": "ko", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "wa", "r": "et",
    "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip
_LONG_QUESTION_WORDS, _WORD_LOSS = 6, 0.15
_OTHER_WORDS, _FEWEST_WORDS = 0.3, 0.4  # of a bag of words
_TYPO_MIN_LETTERS = 4  # a slip in a shorter word makes another word
_SIDES = re.compile(r"(?:the difference between )?(.+?) (?:vs\.?|versus|and|or) (.+)", re.IGNORECASE)


def normalised(text: str) -> str:
    """Lower case, without punctuation, single spaces: two phrasings that agree here count as the same."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def framed(name: str, rng: random.Random, *, of_the_field: bool = False) -> str:
    """A question about `name` in a random frame."""
    frame = rng.choice(FIELD_FRAMES if of_the_field and rng.random() < 0.06 else FRAMES)
    return frame.format(without_article(name) if rng.random() < 0.25 else name)


def compared(name: str, rng: random.Random) -> str | None:
    """A comparing question for a name such as "precision vs recall"; None for any other name."""
    sides = _SIDES.fullmatch(name)
    if not sides:
        return None
    a, b = sides.groups() if rng.random() < 0.5 else sides.groups()[::-1]
    return rng.choice(COMPARISON_FRAMES).format(a=a, b=b)


def noisy(text: str, rng: random.Random) -> str:
    """The same question as another person would type it; often unchanged."""
    if rng.random() < 0.25:
        text = _without_small_words(text, rng)
    if rng.random() < 0.25:
        text = _with_words_lost(text, rng)
    if rng.random() < 0.12:
        text = rng.choice(OPENERS) + (text[:1].lower() + text[1:] if text[1:2].islower() else text)
    if rng.random() < 0.25:
        text = text.rstrip("?.! ")
    if rng.random() < 0.08:
        text = text.rstrip("?.! ") + rng.choice(CLOSERS)
    text = _case(text, rng)
    for _ in range(rng.choices((0, 1, 2), (0.75, 0.18, 0.07))[0]):
        text = _with_typo(text, rng)
    return text


def _without_small_words(text: str, rng: random.Random) -> str:
    """Some words that carry no topic left out, so that an answer is found by the words that do."""
    words = text.split()
    kept = [word for word in words if word.lower().strip("?,.!") not in SMALL_WORDS or rng.random() < 0.5]
    return " ".join(kept) if len(kept) >= 3 else text


def _with_words_lost(text: str, rng: random.Random) -> str:
    """A long question without one word in seven or so: no single word of it may decide the answer."""
    words = text.split()
    kept = [word for word in words if rng.random() > _WORD_LOSS]
    return " ".join(kept) if len(words) >= _LONG_QUESTION_WORDS and len(kept) >= 4 else text


def bag_of_words(text: str, other: str, rng: random.Random) -> str:
    """Some of the words, often in another order, sometimes with words of another phrasing of the same question.

    No question that a person asks, but it has the words that such questions have: what is asked about must be
    found from any of them.
    """
    words = text.split() + (other.split() if rng.random() < _OTHER_WORDS else [])
    share = rng.uniform(_FEWEST_WORDS, 1.0)
    kept = [word for word in words if rng.random() < share]
    kept = kept if len(kept) >= 3 else words
    if rng.random() < 0.5:
        rng.shuffle(kept)
    return " ".join(kept)


def _case(text: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        return text.lower()
    if draw < 0.37:
        return text.upper()
    return text.title() if draw < 0.39 else text


def _with_typo(text: str, rng: random.Random) -> str:
    """One letter swapped, dropped, doubled or replaced by its neighbour on the keyboard, inside one word."""
    words = [match for match in re.finditer(r"[A-Za-z]+", text) if len(match.group()) >= _TYPO_MIN_LETTERS]
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    letter, after = text[at], text[at + 1]
    new = rng.choice((after + letter, after, letter * 2 + after, rng.choice(_NEIGHBOURS[letter.lower()]) + after))
    return text[:at] + new + text[at + 2 :]


def without_article(name: str) -> str:
    """ "a language model" as "language model"."""
    return re.sub(r"^(?:a|an|the) ", "", name, flags=re.IGNORECASE)
