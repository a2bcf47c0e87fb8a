"""What is read of a checkpoint without its weights: limits and tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from served_model.text_generation.checkpoint import Limits, load_tokenizer, read_limits


def checkpoint(folder, config, generation=None):
    (folder / "config.json").write_text(json.dumps({"vocab_size": 50} | config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": 3}, None, {3}),
        ({"eos_token_id": [3, 4]}, None, {3, 4}),
        ({"eos_token_id": 3}, {"eos_token_id": 5}, {5}),  # generation_config.json has the last word
        ({"eos_token_id": 3}, {"eos_token_id": [0, 5]}, {0, 5}),
        ({"eos_token_id": 3}, {}, {3}),
        ({"eos_token_id": 0}, None, {0}),
        ({"eos_token_id": None}, None, set()),
        ({}, {"eos_token_id": None}, set()),
    ],
)
def test_where_an_answer_ends(tmp_path, config, generation, ends):
    limits = read_limits(checkpoint(tmp_path, config, generation))
    assert limits.eos_ids == ends
    assert limits.eos_id == min(ends, default=None)


@pytest.mark.parametrize(
    ("config", "window"), [({"n_positions": 8}, 8), ({"max_position_embeddings": 2048}, 2048), ({}, 1024)]
)
def test_the_window(tmp_path, config, window):
    assert read_limits(checkpoint(tmp_path, config)) == Limits(50, window, frozenset())


def test_limits_of_a_real_checkpoint(tiny_gpt2):
    limits = read_limits(tiny_gpt2)
    vocabulary = len(json.loads((tiny_gpt2 / "tokenizer.json").read_text())["model"]["vocab"])
    assert limits == Limits(vocabulary, 256, frozenset({0}))


def test_the_tokenizer_gives_the_ids_of_transformers(tiny_gpt2):
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(tiny_gpt2), AutoTokenizer.from_pretrained(tiny_gpt2)
    for text in ("What is MLflow?", " a  b\n", "Что? 🤖", "\x00\x01", "Hi<|endoftext|>you"):
        assert ours.encode(text, add_special_tokens=False).ids == theirs(text)["input_ids"]


def test_a_tokenizer_that_cuts_or_fills_texts_does_so_no_more(tiny_gpt2, tmp_path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_gpt2 / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours, plain = load_tokenizer(tmp_path), load_tokenizer(tiny_gpt2)
    for text in ("a", "What is MLflow, and what is it for?"):
        assert ours.encode(text).ids == plain.encode(text).ids


def test_an_older_checkpoint_without_tokenizer_json(tiny_gpt2, tmp_path):
    model = json.loads((tiny_gpt2 / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(merges) + "\n")
    (tmp_path / "config.json").write_text((tiny_gpt2 / "config.json").read_text())
    text = "What is MLflow? Overfitting, naïve 🙂"
    assert load_tokenizer(tmp_path).encode(text).ids == load_tokenizer(tiny_gpt2).encode(text).ids


def test_reading_a_checkpoint_needs_neither_torch_nor_transformers(tiny_gpt2):
    script = (
        "import sys; from pathlib import Path; from served_model.text_generation import checkpoint as c;"
        "f = Path(sys.argv[1]); c.read_limits(f); c.load_tokenizer(f).encode('a');"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tiny_gpt2)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
