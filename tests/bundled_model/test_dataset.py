"""The corpus that ships: complete, clean, and split so that nothing held out is ever trained on."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter

import pytest

from bundled_model.dataset import (
    CASES_FILE,
    CORPUS,
    KNOWN,
    SMALLTALK,
    SPLITS,
    UNKNOWN,
    CorpusError,
    Mix,
    draw,
    draw_cases,
    held_out,
    held_out_dialogues,
    load_corpus,
    write_cases,
)
from bundled_model.phrasings import normalised
from genai_lifecycle.evaluation.case_files import load_cases


@pytest.fixture(scope="module")
def corpus():
    return load_corpus()


# --- what ships -----------------------------------------------------------------------------------


def test_there_is_as_much_as_was_promised(corpus):
    known = corpus.of(KNOWN)
    assert len(known) >= 450
    assert len(corpus.dialogues) >= 80
    assert all(len(entry.questions["train"]) >= 5 for entry in known)


def test_answers_are_short_and_on_one_line(corpus):
    answers = [entry.answer for entry in corpus.entries] + [t.answer for d in corpus.dialogues for t in d.turns]
    for answer in answers:
        assert 8 <= len(answer.split()) <= 42, answer
        assert answer.isascii() and answer == answer.strip() and "\n" not in answer
        assert answer[-1] in ".!?", answer


def test_no_two_concepts_share_a_phrasing_a_name_or_an_answer(corpus):
    phrasings = Counter(
        text for e in corpus.entries for text in {normalised(q) for qs in e.questions.values() for q in qs}
    )
    names = Counter(name for e in corpus.entries for name in {normalised(n) for ns in e.names.values() for n in ns})
    answers = Counter(entry.answer for entry in corpus.of(KNOWN))
    assert [text for counts in (phrasings, names, answers) for text, n in counts.items() if n > 1] == []


def test_answers_to_unknown_questions_are_one_honest_sentence(corpus):
    assert {entry.answer for entry in corpus.of(UNKNOWN)} == {
        "I don't know about that; ask me about AI and machine learning."
    }


# --- splits ---------------------------------------------------------------------------------------


def test_every_concept_is_tested(corpus):
    tested = {example.answer for example in held_out(corpus, "test") if example.group == KNOWN}
    assert tested == {entry.answer for entry in corpus.of(KNOWN)}
    assert len(held_out_dialogues(corpus)) == sum(len(dialogue.turns) for dialogue in corpus.dialogues)


@pytest.mark.parametrize("bags", [0.0, 0.6])
def test_training_never_draws_a_held_out_question(corpus, bags):
    rng = random.Random(3)
    asked = {normalised(e.question) for split in SPLITS[1:] for e in held_out(corpus, split)}
    drawn = [draw(corpus, rng, Mix(bags=bags)) for _ in range(20_000)]
    first = [example.history[0] if example.history else example.question for example in drawn]
    assert not asked & set(map(normalised, first))
    assert {example.group for example in drawn} == {KNOWN, UNKNOWN, SMALLTALK}


def test_training_never_names_a_held_out_unknown_thing(corpus):
    rng = random.Random(4)
    drawn = {normalised(e.question) for e in (draw(corpus, rng) for _ in range(5000)) if e.group == UNKNOWN}
    for example in held_out(corpus, "test"):
        assert normalised(example.question) not in drawn


def test_a_follow_up_is_held_out_from_its_own_dialogue(corpus):
    rng = random.Random(5)
    held = {(e.history[-1], normalised(e.question)) for e in held_out_dialogues(corpus)}
    drawn = [e for e in (draw(corpus, rng) for _ in range(20_000)) if e.history]
    assert drawn and not held & {(e.history[-1], normalised(e.question)) for e in drawn}


def test_the_same_seed_draws_the_same(corpus):
    def some(seed):
        rng = random.Random(seed)
        return [draw(corpus, rng) for _ in range(20)]

    assert some(1) == some(1) != some(2)


# --- the cases of the experiment stage ------------------------------------------------------------


def test_the_case_file_is_current(corpus, tmp_path):
    write_cases(corpus, tmp_path / "cases.jsonl")
    assert CASES_FILE.read_text("utf-8") == (tmp_path / "cases.jsonl").read_text("utf-8"), (
        "run: python bundled_model/dataset.py --write-cases"
    )


def test_the_cases_are_test_phrasings_of_many_concepts(corpus):
    cases = load_cases(CASES_FILE)
    assert len(cases) == 40
    assert {(c.question, c.reference) for c in cases} <= {(e.question, e.answer) for e in held_out(corpus, "test")}
    groups = Counter(example.group for example in draw_cases(corpus))
    assert groups == {KNOWN: 36, UNKNOWN: 4}
    assert len({case.reference for case in cases}) == 37  # the unknown ones share their answer


# --- faults in a corpus file ----------------------------------------------------------------------


@pytest.fixture
def small_folder(tmp_path):
    """A valid corpus of one concept, to be broken."""
    folder = tmp_path / "corpus"
    (folder / "concepts").mkdir(parents=True)
    (folder / "dialogues").mkdir()
    first = (CORPUS / "concepts" / "ml.jsonl").read_text("utf-8").splitlines()[0]
    (folder / "concepts" / "ml.jsonl").write_text(first + "\n", "utf-8")
    for name in ("unknown.jsonl", "smalltalk.jsonl"):
        shutil.copy(CORPUS / name, folder / name)
    return folder


def change(folder, **given):
    path = folder / "concepts" / "ml.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | given) + "\n", "utf-8")


def test_the_small_folder_itself_is_valid(small_folder):
    assert len(load_corpus(small_folder).of(KNOWN)) == 1


def test_broken_json_is_named_with_file_and_line(small_folder):
    path = small_folder / "concepts" / "ml.jsonl"
    path.write_text(path.read_text("utf-8") + '{"id": "half\n', "utf-8")
    with pytest.raises(CorpusError, match=r"ml\.jsonl, line 2: not valid JSON"):
        load_corpus(small_folder)


def test_a_missing_answer_is_named_with_file_and_line(small_folder):
    path = small_folder / "concepts" / "ml.jsonl"
    item = json.loads(path.read_text("utf-8"))
    del item["answer"]
    path.write_text(json.dumps(item), "utf-8")
    with pytest.raises(CorpusError, match=r"ml\.jsonl, line 1: has no answer"):
        load_corpus(small_folder)


def test_a_test_phrasing_that_is_trained_on_is_refused(small_folder):
    questions = {"train": ["What is X?"], "validation": [], "test": ["what is x"]}
    change(small_folder, questions=questions)
    with pytest.raises(CorpusError, match=r"line 1: a held-out phrasing is in train too: 'what is x'"):
        load_corpus(small_folder)


def test_an_id_used_twice_is_refused(small_folder):
    path = small_folder / "concepts" / "ml.jsonl"
    path.write_text(path.read_text("utf-8") * 2, "utf-8")
    with pytest.raises(CorpusError, match="used twice"):
        load_corpus(small_folder)


def test_a_dialogue_about_nothing_is_refused(small_folder):
    (small_folder / "dialogues" / "ml.jsonl").write_text('{"concept": "no-such", "turns": []}\n', "utf-8")
    with pytest.raises(CorpusError, match=r"ml\.jsonl, line 1: there is no concept 'no-such'"):
        load_corpus(small_folder)
