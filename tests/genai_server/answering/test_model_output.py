"""What a served model returns, as the server's types; any other model's output is in test_answerers.py."""

from __future__ import annotations

import asyncio

import pytest

from genai_server.answer import Answer, Usage
from genai_server.answering.model_output import answer_of, pieces_of

ROW = {
    "answer": "a", "finish_reason": "length", "prompt_tokens": 3, "completion_tokens": 2, "first_token_s": 0.1,
    "total_s": 0.2, "token_ids": [5, 6], "warnings": ["The prompt was too long."], "queued_s": 0.05,
}  # fmt: skip


def test_every_field_of_a_packaged_models_answer_is_read():
    usage = Usage(prompt_tokens=3, completion_tokens=2, first_token_s=0.1, total_s=0.2, queued_s=0.05)
    assert answer_of(ROW) == Answer("a", "length", usage, (5, 6), ("The prompt was too long.",))


@pytest.mark.parametrize("missing", ["queued_s", "warnings", "token_ids"])
def test_a_version_registered_before_a_field_was_added_has_the_others(missing):
    answer = answer_of({name: value for name, value in ROW.items() if name != missing})
    assert answer.usage is not None and answer.usage.completion_tokens == 2
    assert (answer.usage.queued_s, answer.token_ids, answer.warnings).count(None) == (missing == "queued_s")


def test_closing_a_stream_ends_the_models_own():
    ended = []

    async def rows():
        try:
            for text in "abc":
                yield {"delta": text}
        finally:
            ended.append(True)

    async def scenario():
        pieces = pieces_of(rows())
        assert await anext(pieces) == "a"
        await pieces.aclose()
        assert ended  # now, and not when the garbage is collected

    asyncio.run(scenario())


def test_a_stream_is_texts_and_then_the_answer():
    async def rows():
        yield {"delta": "a"}
        yield {"delta": "", **ROW}

    async def scenario():
        return [piece async for piece in pieces_of(rows())]

    assert asyncio.run(scenario()) == ["a", answer_of(ROW)]
