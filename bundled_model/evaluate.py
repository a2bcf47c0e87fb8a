"""Measures the bundled model on phrasings it was never trained on, and prints the figures.

    python bundled_model/evaluate.py              # every figure, on the whole test split
    python bundled_model/evaluate.py --sample 30  # random answers instead, to be read by a person

Answers are made as they are served: `TextModel`, greedy, at most 96 new tokens. What is held out is decided
in dataset.py; nothing here trains.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run as a file: make the packages of the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundled_model.dataset import (
    KNOWN,
    OWN_WORDS,
    UNKNOWN,
    Corpus,
    Example,
    held_out,
    held_out_dialogues,
    load_corpus,
)
from bundled_model.phrasings import normalised
from genai_lifecycle.evaluation.scorers import token_f1
from genai_lifecycle.models.conversion.ir import convert, save
from genai_lifecycle.models.generation import load_converted
from genai_lifecycle.prompts.templates import TEMPLATES
from served_model.text_generation.sampling import Sampling
from served_model.text_generation.text_model import DIALOGUE, PLAIN, Answer, TextModel

MODEL = Path(__file__).resolve().parent / "gpt2-mini"
SIMPLE = "simple"
BARE_TURNS = "dialogue"  # the question alone as a turn, as a dialogue model is asked
MAX_NEW_TOKENS = 96
TIMED_ANSWERS = 50
_DECLINES = ("i dont know about that", "i do not know about that")


@dataclass(frozen=True)
class Scores:
    """How one way of asking did on the held-out questions; shares are from 0 to 1."""

    f1: float  # mean token F1 of the known questions
    exact: float  # share of the known questions answered with the reference, word for word
    known_declined: float
    unknown_declined: float
    ended: float  # share of all answers that end by themselves
    known: int  # how many known questions
    unknown: int


def is_declined(answer: str) -> bool:
    """Whether an answer says that the question is outside the field."""
    return normalised(answer).startswith(_DECLINES)


def answer_all(model: TextModel, examples: Sequence[Example], template: str | None) -> list[Answer]:
    """Greedy answers in the order of the examples; `template` None asks in bare turns, with the history."""
    prompts = [
        model.encode(
            e.question if template is None or e.history else template.replace("{{question}}", e.question),
            e.history,
            MAX_NEW_TOKENS,
        )
        for e in examples
    ]
    # The deadline is for a whole call; here nobody waits at the other end.
    return model.complete(prompts, Sampling(max_new_tokens=MAX_NEW_TOKENS, timeout_s=3600))


def score(examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
    """Figures of one way of asking; `examples` has at least one known question."""
    pairs = list(zip(examples, answers, strict=True))
    known = [(e, a.answer) for e, a in pairs if e.group == KNOWN]
    unknown = [a.answer for e, a in pairs if e.group == UNKNOWN]
    return Scores(
        f1=statistics.fmean(token_f1(answer, e.answer) for e, answer in known),
        exact=_share([answer == e.answer for e, answer in known]),
        known_declined=_share([is_declined(answer) for _, answer in known]),
        unknown_declined=_share([is_declined(answer) for answer in unknown]),
        ended=_share([a.finish_reason == "stop" for _, a in pairs]),
        known=len(known),
        unknown=len(unknown),
    )


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


@contextmanager
def loaded(folder: Path, engine: str) -> Iterator[TextModel]:
    """The checkpoint on one of the engines; for OpenVINO it is converted first, with its weights in fp32."""
    if engine == "torch":
        yield TextModel.load(folder, PLAIN)
        return
    with tempfile.TemporaryDirectory() as ir, closing(_converted(folder, Path(ir))) as model:
        yield model


def _converted(folder: Path, ir: Path) -> TextModel:
    save(convert(folder), ir)
    return load_converted(folder, ir, PLAIN, "fp32")


def ways_of_asking(plain: TextModel) -> list[tuple[str, str | None, TextModel]]:
    """(name, template, model) for the four templates, and for bare turns in the dialogue format."""
    dialogue = TextModel(plain.tokenizer, plain.engine, DIALOGUE)
    return [*((name, template, plain) for name, template in TEMPLATES.items()), (BARE_TURNS, None, dialogue)]


def answer_seconds(model: TextModel, questions: Sequence[str]) -> list[float]:
    """Seconds that each question takes when it is asked alone, in ascending order; the first call is not counted."""
    prompts = [model.encode(TEMPLATES[SIMPLE].replace("{{question}}", question)) for question in questions]
    sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS)
    model.complete(prompts[:1], sampling)
    taken = []
    for prompt in prompts:
        started = time.perf_counter()
        model.complete([prompt], sampling)
        taken.append(time.perf_counter() - started)
    return sorted(taken)


# --- command line ---------------------------------------------------------------------------------


def print_figures(model: TextModel, corpus: Corpus, split: str) -> None:
    examples = held_out(corpus, split)
    sizes = {group: sum(e.group == group for e in examples) for group in sorted({e.group for e in examples})}
    print(f"{split} split: {', '.join(f'{count} {group}' for group, count in sizes.items())} questions")
    columns = f"{'token F1':>9}{'exact':>8}{'unknown declined':>18}{'known declined':>16}{'ended':>8}"
    print(f"\n{'asked in':20}{columns}")
    ways = ways_of_asking(model)
    for name, template, model in ways:
        _print_scores(name, score(examples, answer_all(model, examples, template)))
    own_words = held_out(corpus, OWN_WORDS)
    if own_words:
        name = f"own words ({len(own_words)})"
        _print_scores(name, score(own_words, answer_all(model, own_words, TEMPLATES[SIMPLE])))
    talks = held_out_dialogues(corpus)
    if talks:
        _print_scores(f"follow-ups ({len(talks)})", score(talks, answer_all(ways[-1][2], talks, None)))
    taken = answer_seconds(ways[0][2], [e.question for e in _drawn(examples, TIMED_ANSWERS, KNOWN)])
    p50, p95 = statistics.median(taken), taken[int(0.95 * (len(taken) - 1))]
    print(f"\na whole answer, asked alone: p50 {p50:.2f} s, p95 {p95:.2f} s ({len(taken)} known questions)")


def _print_scores(name: str, scores: Scores) -> None:
    unknown = f"{scores.unknown_declined:.1%}" if scores.unknown else "-"
    print(
        f"{name:20}{scores.f1:9.3f}{scores.exact:8.1%}{unknown:>18}{scores.known_declined:16.1%}{scores.ended:8.1%}",
        flush=True,
    )


def print_sample(model: TextModel, corpus: Corpus, split: str, count: int, seed: int) -> None:
    """Random questions with the model's answers, the wrong ones with what they should have been."""
    examples = random.Random(seed).sample(held_out(corpus, split), count)
    for e, answer in zip(examples, answer_all(model, examples, TEMPLATES[SIMPLE]), strict=True):
        print(f"Q: {e.question}\nA: {answer.answer}")
        if answer.answer != e.answer:
            print(f"   should be (F1 {token_f1(answer.answer, e.answer):.2f}): {e.answer}")
        print()


def print_answers(model: TextModel, questions: Sequence[str]) -> None:
    examples = [Example(question, "", KNOWN) for question in questions]
    for e, answer in zip(examples, answer_all(model, examples, TEMPLATES[SIMPLE]), strict=True):
        print(f"Q: {e.question}\nA: {answer.answer}\n")


def _drawn(examples: Sequence[Example], count: int, group: str) -> list[Example]:
    of_group = [e for e in examples if e.group == group]
    return random.Random(0).sample(of_group, min(count, len(of_group)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the bundled GPT-2 on phrasings it was never trained on.")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder in HuggingFace format")
    parser.add_argument("--engine", choices=("openvino", "torch"), default="openvino", help="default: openvino")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--sample", type=int, metavar="N", help="print N random questions with their answers instead")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--ask", nargs="+", metavar="QUESTION", help="answer these questions instead")
    given = parser.parse_args(argv)
    if not (given.model / "config.json").exists():
        print(
            f"Error: there is no model in {given.model}.\n  -> Train it: python bundled_model/train.py", file=sys.stderr
        )
        return 2
    with loaded(given.model, given.engine) as model:
        if given.ask:
            print_answers(model, given.ask)
        elif given.sample:
            print_sample(model, load_corpus(), given.split, given.sample, given.seed)
        else:
            print_figures(model, load_corpus(), given.split)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
