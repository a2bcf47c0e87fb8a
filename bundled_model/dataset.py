"""The corpus: reading and checking it, its splits, and the extra ways of asking that training draws.

`python bundled_model/dataset.py --write-cases` writes `corpus/cases.jsonl`, the cases of the experiment
stage. Nothing here knows tokens or models.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run as a file: make `bundled_model` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundled_model.phrasings import FRAMES, bag_of_words, compared, framed, noisy, normalised

CORPUS = Path(__file__).resolve().parent / "corpus"
CASES_FILE = CORPUS / "cases.jsonl"
OWN_WORDS = "own_words"  # held out too: questions that describe a thing without its name, as a layman would
SPLITS = ("train", "validation", "test", OWN_WORDS)
KNOWN, UNKNOWN, SMALLTALK = "known", "unknown", "smalltalk"

CASES_KNOWN, CASES_UNKNOWN = 36, 4


class CorpusError(ValueError):
    """A corpus line that cannot be used; the message has the file and the line's number."""


@dataclass(frozen=True)
class Entry:
    """One answer with the ways of asking for it."""

    id: str
    group: str  # known | unknown | smalltalk
    answer: str
    questions: dict[str, tuple[str, ...]]  # split -> phrasings
    names: dict[str, tuple[str, ...]]  # split -> names that fit into FRAMES


@dataclass(frozen=True)
class FollowUp:
    """One further turn of a dialogue."""

    answer: str
    questions: dict[str, tuple[str, ...]]  # split -> phrasings


@dataclass(frozen=True)
class Dialogue:
    """A question about `entry`, then further turns."""

    entry: Entry
    turns: tuple[FollowUp, ...]


@dataclass(frozen=True)
class Corpus:
    """Everything that is learned, and the phrasings that never are."""

    entries: tuple[Entry, ...]
    dialogues: tuple[Dialogue, ...]
    held_out: frozenset[str]  # normalised validation and test phrasings

    def of(self, group: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.group == group]


@dataclass(frozen=True)
class Example:
    """One question with its answer; `history` holds the turns before it."""

    question: str
    answer: str
    group: str
    history: tuple[str, ...] = ()
    split: str = "train"


# --- reading --------------------------------------------------------------------------------------


def load_corpus(folder: Path = CORPUS) -> Corpus:
    """Read and check every file. Raises CorpusError naming file and line for a line that cannot be used."""
    entries = [
        *(_entry(item, KNOWN) for path in sorted(folder.glob("concepts/*.jsonl")) for item in _lines(path)),
        *(_entry(item, UNKNOWN) for item in _lines(folder / "unknown.jsonl")),
        *(_entry(item, SMALLTALK) for item in _lines(folder / "smalltalk.jsonl")),
    ]
    by_id = {entry.id: entry for entry in entries}
    if len(by_id) != len(entries):
        twice = sorted({entry.id for entry in entries if [e.id for e in entries].count(entry.id) > 1})
        raise CorpusError(f"these ids are used twice: {', '.join(twice)}")
    dialogues = [_dialogue(item, by_id) for path in sorted(folder.glob("dialogues/*.jsonl")) for item in _lines(path)]
    return Corpus(tuple(entries), tuple(dialogues), frozenset(_held_out(entries, dialogues)))


@dataclass(frozen=True)
class _Line:
    """A parsed line that remembers where it stands."""

    path: Path
    number: int
    item: dict

    def error(self, what: str) -> CorpusError:
        return CorpusError(f"{self.path.name}, line {self.number}: {what}")


def _lines(path: Path) -> Iterator[_Line]:
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            item = json.loads(text)
        except json.JSONDecodeError as exc:
            raise CorpusError(f"{path.name}, line {number}: not valid JSON ({exc.msg})") from exc
        yield _Line(path, number, item)


def _entry(line: _Line, group: str) -> Entry:
    item = line.item
    missing = [key for key in ("id", "names", "answer", "questions") if key not in item]
    if missing:
        raise line.error(f"has no {', '.join(missing)}")
    names = item["names"] if isinstance(item["names"], dict) else {"train": item["names"]}
    return Entry(
        id=item["id"],
        group=group,
        answer=item["answer"],
        questions=_questions(line, item["questions"]),
        names={split: tuple(names.get(split, ())) for split in SPLITS},
    )


def _questions(line: _Line, questions: dict) -> dict[str, tuple[str, ...]]:
    if not questions.get("train") or not questions.get("test"):
        raise line.error("needs train and test phrasings")
    train = {normalised(text) for text in questions["train"]}
    shared = [text for split in SPLITS[1:] for text in questions.get(split, ()) if normalised(text) in train]
    if shared:
        raise line.error(f"a held-out phrasing is in train too: {shared[0]!r}")
    return {split: tuple(questions.get(split, ())) for split in SPLITS}


def _dialogue(line: _Line, entries: dict[str, Entry]) -> Dialogue:
    if line.item.get("concept") not in entries:
        raise line.error(f"there is no concept {line.item.get('concept')!r}")
    turns = tuple(FollowUp(turn["answer"], _questions(line, turn["questions"])) for turn in line.item["turns"])
    return Dialogue(entries[line.item["concept"]], turns)


def _held_out(entries: Sequence[Entry], dialogues: Sequence[Dialogue]) -> Iterator[str]:
    for entry in entries:
        for split in SPLITS[1:]:
            yield from map(normalised, entry.questions[split])
            yield from (normalised(frame.format(name)) for name in entry.names[split] for frame in FRAMES)
    # A follow-up ("But why?") is held out in its dialogue only: the same words may be learned in another one.


# --- drawing training examples --------------------------------------------------------------------


@dataclass(frozen=True)
class Mix:
    """How often training draws from each part of the corpus; the shares add up to 1."""

    known: float = 0.70
    unknown: float = 0.19
    smalltalk: float = 0.03
    dialogues: float = 0.08
    framed: float = 0.27  # share of questions made from a name and a frame
    bags: float = 0.0  # share of questions that are bags of words


def draw(corpus: Corpus, rng: random.Random, mix: Mix = Mix()) -> Example:
    """One training example; never a held-out phrasing, whatever the noise makes of it."""
    part = rng.choices((KNOWN, UNKNOWN, SMALLTALK, "dialogue"), (mix.known, mix.unknown, mix.smalltalk, mix.dialogues))[
        0
    ]
    if part == "dialogue" and corpus.dialogues:
        return _draw_dialogue(corpus, rng, mix)
    pool = corpus.of(KNOWN if part == "dialogue" else part)
    entry = rng.choice(pool)
    return Example(_draw_question(corpus, entry, rng, mix), entry.answer, entry.group)


def _draw_dialogue(corpus: Corpus, rng: random.Random, mix: Mix) -> Example:
    dialogue = rng.choice(corpus.dialogues)
    history = [_draw_question(corpus, dialogue.entry, rng, mix), dialogue.entry.answer]
    last = rng.randrange(len(dialogue.turns))
    for turn in dialogue.turns[:last]:
        history += [noisy(rng.choice(turn.questions["train"]), rng), turn.answer]
    turn = dialogue.turns[last]
    return Example(noisy(rng.choice(turn.questions["train"]), rng), turn.answer, KNOWN, tuple(history))


def _draw_question(corpus: Corpus, entry: Entry, rng: random.Random, mix: Mix) -> str:
    while True:
        plain = _plain_question(entry, rng, mix)
        if mix.bags and rng.random() < mix.bags:
            plain = bag_of_words(plain, rng.choice(entry.questions["train"]), rng)
        text = noisy(plain, rng)
        # Neither a held-out phrasing nor one that has become it, or has only got a typo or a "please".
        if not {normalised(plain), normalised(text)} & corpus.held_out:
            return text


def _plain_question(entry: Entry, rng: random.Random, mix: Mix) -> str:
    """One written by hand, or a frame around one of the entry's names."""
    names = entry.names["train"]
    if not names or rng.random() >= mix.framed:
        return rng.choice(entry.questions["train"])
    name = rng.choice(names)
    comparison = compared(name, rng) if rng.random() < 0.8 else None
    return comparison or framed(name, rng, of_the_field=entry.group == KNOWN)


# --- held-out examples ----------------------------------------------------------------------------


def held_out(corpus: Corpus, split: str) -> list[Example]:
    """Every phrasing of a held-out split, with unknown names put into one frame each."""
    found = [
        Example(question, entry.answer, entry.group, split=split)
        for entry in corpus.entries
        for question in entry.questions[split]
    ]
    framed = [
        Example(FRAMES[number % len(FRAMES)].format(name), entry.answer, entry.group, split=split)
        for entry in corpus.of(UNKNOWN)
        for number, name in enumerate(entry.names[split])
    ]
    return found + framed


def held_out_dialogues(corpus: Corpus) -> list[Example]:
    """Each follow-up's test phrasing, after the opening question's first test phrasing and the turns before."""
    found = []
    for dialogue in corpus.dialogues:
        history = [dialogue.entry.questions["test"][0], dialogue.entry.answer]
        for turn in dialogue.turns:
            question = turn.questions["test"][0]
            found.append(Example(question, turn.answer, KNOWN, tuple(history)))
            history += [question, turn.answer]
    return found


def draw_cases(corpus: Corpus) -> list[Example]:
    """The experiment's cases: test phrasings only, spread evenly over the concepts."""
    examples = held_out(corpus, "test")
    known = [example for example in examples if example.group == KNOWN]
    unknown = [example for example in examples if example.group == UNKNOWN]
    return [
        *(known[i * len(known) // CASES_KNOWN] for i in range(CASES_KNOWN)),
        *(unknown[i * len(unknown) // CASES_UNKNOWN] for i in range(CASES_UNKNOWN)),
    ]


def write_cases(corpus: Corpus, path: Path = CASES_FILE) -> None:
    lines = [json.dumps({"question": e.question, "reference": e.answer}) for e in draw_cases(corpus)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the corpus and print its sizes.")
    parser.add_argument("--write-cases", action="store_true", help="write corpus/cases.jsonl, the experiment's cases")
    given = parser.parse_args()
    corpus = load_corpus()
    for group in (KNOWN, UNKNOWN, SMALLTALK):
        entries = corpus.of(group)
        sizes = {split: sum(len(entry.questions[split]) for entry in entries) for split in SPLITS}
        print(f"{group:10} {len(entries)} answers, phrasings {sizes}")
    print(f"dialogues  {len(corpus.dialogues)} with {sum(len(d.turns) for d in corpus.dialogues)} follow-ups")
    if given.write_cases:
        write_cases(corpus)


if __name__ == "__main__":
    main()
