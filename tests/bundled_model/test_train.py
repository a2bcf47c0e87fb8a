"""The recipe on a crumb of the corpus: prompts exactly as served, the same weights for a seed, also when resumed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from bundled_model import train as recipe_file
from bundled_model.dataset import KNOWN, Example, Mix, load_corpus
from bundled_model.train import (
    CHECKPOINT,
    Part,
    Recipe,
    Training,
    collate,
    encode,
    encode_short,
    export,
    learning_rate,
    smaller,
    train,
    train_tokenizer,
)
from genai_lifecycle.prompts.templates import TEMPLATES
from served_model.text_generation.sampling import Sampling
from served_model.text_generation.text_model import DIALOGUE, PLAIN, TextModel

pytestmark = pytest.mark.slow


FIRST = Part(steps=4, batch=4, learning_rate=2e-3, warmup=2)
SECOND = Part(steps=4, batch=4, learning_rate=1e-3, warmup=1, short_share=0.5, short_mix=Mix(bags=0.5), short_answer=3)
TINY = Recipe(parts=(FIRST, SECOND), vocabulary=500, layers=1, width=32, heads=2, checkpoint_every=3)


@pytest.fixture(scope="module")
def corpus():
    return smaller(load_corpus(), 0.02)


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus, TINY.vocabulary)


@pytest.fixture(scope="module")
def finished(corpus, tokenizer, tmp_path_factory):
    """A training that ran without a stop."""
    training = Training(corpus, tokenizer, TINY, "cpu")
    train(training, tmp_path_factory.mktemp("work"), some_rows(tokenizer))
    return training


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "mini"
    export(finished, out)
    return out


def some_rows(tokenizer):
    rng = random.Random(0)
    example = Example("What is dropout?", "Dropout is a trick.", KNOWN)
    return [encode(example, tokenizer, rng, TINY) for _ in range(3)]


# --- rows exactly as served -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(folder):
    return TextModel.load(folder, PLAIN)


@pytest.fixture(scope="module")
def dialogue(folder):
    return TextModel.load(folder, DIALOGUE)


ASKED = Example("wats  Overfiting??", "Overfitting is learning noise, too.", KNOWN)


def trained_rows(tokenizer, example, **shares):
    rng = random.Random(0)
    rows = [encode(example, tokenizer, rng, replace(TINY, **shares)) for _ in range(60)]
    return {(tuple(row.prompt), tuple(row.answer)) for row in rows}


def served_row(model, example, text):
    end = model.engine.limits.eos_id
    prompt = model.encode(text, example.history).token_ids
    return tuple(prompt), (*model.encode_answer(example.answer, text, example.history), end)


def texts():
    return [template.replace("{{question}}", ASKED.question) for template in TEMPLATES.values()]


def test_templates_are_trained_as_they_are_served(tokenizer, plain):
    rows = trained_rows(tokenizer, ASKED, template_share=1.0, template_in_turn_share=0.0)
    assert rows == {served_row(plain, ASKED, text) for text in texts()}


def test_templates_inside_the_dialogue_format_too(tokenizer, dialogue):
    rows = trained_rows(tokenizer, ASKED, template_share=1.0, template_in_turn_share=1.0)
    assert rows == {served_row(dialogue, ASKED, text) for text in texts()}


def test_bare_turns_too(tokenizer, dialogue):
    rows = trained_rows(tokenizer, ASKED, template_share=0.0)
    assert rows == {served_row(dialogue, ASKED, ASKED.question)}


def test_a_history_is_trained_as_it_is_served(tokenizer, plain, dialogue):
    later = replace(ASKED, history=("What is MLflow?", "MLflow is a tool."))
    rows = trained_rows(tokenizer, later)
    assert rows == {served_row(plain, later, later.question)} == {served_row(dialogue, later, later.question)}


def test_short_rows_begin_as_served(tokenizer, plain, dialogue):
    rng = random.Random(0)
    rows = [encode_short(ASKED, tokenizer, rng, SECOND) for _ in range(20)]
    whole = [served_row(plain, ASKED, texts()[0]), served_row(dialogue, ASKED, ASKED.question)]
    assert {(tuple(row.prompt), tuple(row.answer)) for row in rows} == {(p, a[:3]) for p, a in whole}


def test_only_the_answer_and_its_end_count_for_the_loss(tokenizer):
    rows = some_rows(tokenizer)
    ids, labels = collate(rows, "cpu")
    for i, row in enumerate(rows):
        counted = labels[i] != recipe_file.PAD_LABEL
        assert labels[i][counted].tolist() == row.answer == ids[i][counted].tolist()
        assert row.answer[-1] == recipe_file.END_ID


# --- the run --------------------------------------------------------------------------------------


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_weights(corpus, tokenizer, finished, tmp_path):
    again = Training(corpus, tokenizer, TINY, "cpu")
    train(again, tmp_path, some_rows(tokenizer))
    assert same(finished.mean, again.mean)


def test_another_seed_gives_other_weights(corpus, tokenizer, finished, tmp_path):
    other = Training(corpus, tokenizer, replace(TINY, seed=1), "cpu")
    train(other, tmp_path, some_rows(tokenizer))
    assert not same(finished.mean, other.mean)


def test_stopped_and_resumed_gives_the_same_weights(corpus, tokenizer, finished, tmp_path, monkeypatch):
    stopped = Training(corpus, tokenizer, TINY, "cpu")
    advance = stopped.advance

    def advance_until_killed():
        if stopped.step == 5:  # after the checkpoint of step 3, in the second part
            raise KeyboardInterrupt
        return advance()

    monkeypatch.setattr(stopped, "advance", advance_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, tmp_path, some_rows(tokenizer))

    resumed = Training(corpus, tokenizer, TINY, "cpu")
    torch.manual_seed(99)  # another process starts with another random state
    resumed.restore(tmp_path / CHECKPOINT)
    assert resumed.step == 3
    train(resumed, tmp_path, some_rows(tokenizer))
    assert same(finished.mean, resumed.mean)


def test_the_second_part_starts_from_the_mean_with_an_optimiser_of_its_own(corpus, tokenizer):
    training = Training(corpus, tokenizer, TINY, "cpu")
    for _ in range(FIRST.steps):
        training.advance()
    before, optimizer = {name: value.clone() for name, value in training.mean.items()}, training.optimizer
    assert not same(before, training.model.state_dict())
    training._begin_part()
    assert same(before, training.model.state_dict())
    assert training.optimizer is not optimizer and not training.pool


def test_each_part_warms_up_and_cools_down():
    assert [TINY.part_at(step) for step in (0, 3, 4, 7)] == [(FIRST, 0), (FIRST, 3), (SECOND, 0), (SECOND, 3)]
    rates = [learning_rate(step, FIRST) for step in range(5)]
    assert rates[0] == 1e-3 and rates[1] == max(rates) == 2e-3 and rates[-1] == pytest.approx(1e-4)


def test_a_checkpoint_of_another_recipe_is_refused(corpus, tokenizer, finished, tmp_path):
    finished.save(tmp_path / CHECKPOINT)
    other = Training(corpus, tokenizer, replace(TINY, seed=1), "cpu")
    with pytest.raises(ValueError, match="another recipe"):
        other.restore(tmp_path / CHECKPOINT)


def test_it_learns(corpus, tokenizer):
    few = replace(corpus, entries=(corpus.of(KNOWN)[0], *corpus.entries[-20:]), dialogues=())
    training = Training(few, tokenizer, replace(TINY, parts=(Part(30, 4, 1e-2, 5),)), "cpu")
    losses = [training.advance() for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_it_says_how_long_it_will_take(corpus, tokenizer, tmp_path, caplog):
    with caplog.at_level("INFO"):
        train(
            Training(corpus, tokenizer, replace(TINY, parts=(replace(FIRST, steps=20),)), "cpu"),
            tmp_path,
            some_rows(tokenizer),
        )
    assert "step 20 of 20" in caplog.text and "min left" in caplog.text


# --- the folder it writes -------------------------------------------------------------------------


def test_the_folder_is_a_plain_gpt2_that_answers(plain, folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert plain.tokenizer.token_to_id("<|endoftext|>") == plain.engine.limits.eos_id
    assert plain.engine.limits.eos_ids == {plain.tokenizer.token_to_id("<|endoftext|>")}
    answer = plain.complete([plain.encode("Question: What is dropout?\nAnswer:")], Sampling(max_new_tokens=4))[0]
    assert answer.completion_tokens + (answer.finish_reason == "stop") in range(1, 5)


def test_the_saved_weights_are_the_averaged_ones(finished, plain):
    assert same(finished.mean, plain.engine.model.state_dict())


def test_a_second_export_replaces_the_first(finished, tmp_path):
    out = tmp_path / "mini"
    export(finished, out)
    (out / "left-over.txt").write_text("old")
    export(finished, out)
    assert not (out / "left-over.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]
