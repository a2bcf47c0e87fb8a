"""Token ids that become text: whole characters, held-back ends, stop strings over token borders."""

from __future__ import annotations

import random

import pytest
from tiny_model import UNICODE

from served_model.text_generation.checkpoint import load_tokenizer
from served_model.text_generation.writer import Writer


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2):
    return load_tokenizer(tiny_gpt2)


def written(tokenizer, ids, stop=(), piece=1):
    """What a reader of the stream gets, token after token, and the writer at its end."""
    writer, deltas = Writer(tokenizer, stop), []
    for end in range(piece, len(ids) + piece, piece):
        writer.take(ids[:end])
        deltas.append(writer.delta(over=writer.has_stopped or end >= len(ids)))
        if writer.has_stopped:
            break
    return deltas, writer


@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
@pytest.mark.parametrize("text", [UNICODE, "plain words", "\n two\n\n lines \n", "🙂", "👩‍👩‍👧", "é" * 20])
def test_pieces_make_the_whole_text(tokenizer, text, piece):
    deltas, writer = written(tokenizer, tokenizer.encode(text).ids, piece=piece)
    assert "".join(deltas) == writer.text() == text.strip()
    assert not any("\ufffd" in delta for delta in deltas)


def test_text_comes_before_the_end(tokenizer):
    deltas, _ = written(tokenizer, tokenizer.encode(UNICODE).ids)
    assert len([delta for delta in deltas[:-1] if delta]) > 5


def test_spaces_at_both_ends_are_held_back(tokenizer):
    writer = Writer(tokenizer)
    ids = tokenizer.encode("  a  ").ids
    writer.take(ids)
    assert writer.delta(over=False) == "a"
    writer.take(ids + tokenizer.encode("b").ids)
    assert writer.delta(over=True) == "  b"


def test_any_ids_at_all_stream_as_they_are_decoded(tokenizer):
    """Random bytes: broken characters, half characters at the end, control characters, end-of-text in the middle."""
    for seed in range(100):
        draw = random.Random(seed)
        ids = [draw.randrange(tokenizer.get_vocab_size() if seed % 2 else 256) for _ in range(60)]
        deltas, writer = written(tokenizer, ids, piece=1 + seed % 3)
        assert "".join(deltas) == writer.text() == tokenizer.decode(ids, skip_special_tokens=True).strip(), seed


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["three"], "one two"),
        (["o th"], "one tw"),  # begins and ends within tokens
        (["three", "two"], "one"),
        (["two", "two three"], "one"),
        (["one"], ""),
        (["eleven"], "one two three 🙂 four"),
        (["🙂"], "one two three"),
        ([" four", "r"], "one two th"),
        (["four!"], "one two three 🙂 four"),  # begins, never ends
    ],
)
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_a_stop_string_ends_the_text_before_it(tokenizer, stop, expected, piece):
    deltas, writer = written(tokenizer, tokenizer.encode("one two three 🙂 four").ids, stop, piece)
    assert "".join(deltas) == writer.text() == expected
    assert writer.has_stopped is any(text in "one two three 🙂 four" for text in stop)


def test_what_may_become_a_stop_string_is_not_sent(tokenizer):
    writer = Writer(tokenizer, ["END"])
    ids = tokenizer.encode("a EN").ids
    writer.take(ids)
    assert writer.delta(over=False) == "a"
    writer.take(ids + tokenizer.encode("D b").ids)
    assert (writer.delta(over=True), writer.has_stopped) == ("", True)


def test_tokens_after_a_stop_string_are_not_taken(tokenizer):
    ids = tokenizer.encode("one two three four").ids
    writer = Writer(tokenizer, ["two"])
    writer.take(ids)
    taken = list(writer.ids)
    writer.take(ids + ids)
    assert writer.ids == taken == ids[: len(taken)]
    assert tokenizer.decode(taken).endswith("two")


def test_a_continued_text_keeps_the_spaces_at_its_ends(tokenizer):
    ids = tokenizer.encode(" one two ").ids
    writer = Writer(tokenizer, keeps_spaces=True)
    writer.take(ids[:1])
    first = writer.delta(over=False)
    writer.take(ids)
    assert first + writer.delta(over=True) == writer.text() == " one two "
