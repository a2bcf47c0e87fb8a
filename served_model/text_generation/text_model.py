"""Text in, text out: tokenizer, turn format, and waiting for the engine, from a thread or from an event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .checkpoint import load_tokenizer
from .engine import STOP, Engine, Job
from .errors import bad_input
from .sampling import Sampling
from .writer import Writer

PLAIN, DIALOGUE = "plain", "dialogue"  # turn formats: a text to continue, or DialoGPT's joined turns
_CHARACTERS_A_TOKEN = 8  # English has 4 to 5
_CUT_MARGIN = 256  # characters: the tokens at a cut may be others than in the whole text
_WATCH_EVERY_S = 2.0  # how often a waiting caller looks whether the engine is still alive
_groups = itertools.count(1)  # one number a call


@dataclass(frozen=True)
class Answer:
    """One answer as `predict` returns it (as a dict)."""

    answer: str
    finish_reason: str  # stop | length | timeout | cancelled
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float
    token_ids: list[int]  # the answer's tokens, for comparing two runs exactly
    warnings: list[str] = field(default_factory=list)  # for example that a long prompt was cut
    queued_s: float = 0.0  # of total_s: before the engine began with it


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt as token ids, ready for the engine."""

    token_ids: list[int]
    warnings: tuple[str, ...] = ()
    keeps_spaces: bool = False  # the answer continues a text: spaces at its ends belong to it


class TextModel:
    """Tokenizer and engine of one checkpoint, with its turn format: prompts in, answers out."""

    def __init__(self, tokenizer: Any, engine: Engine, turn_format: str):
        if turn_format not in (PLAIN, DIALOGUE):
            raise bad_input(f"turn format is {turn_format!r}; use {PLAIN!r} or {DIALOGUE!r}.")
        self.tokenizer, self.engine, self.turn_format = tokenizer, engine, turn_format
        self._longest_token = max(map(len, tokenizer.get_vocab()), default=1)  # in characters

    @classmethod
    def load(cls, folder: str | Path, turn_format: str = PLAIN) -> TextModel:
        """A checkpoint with safetensors weights as it stands, on the torch engine. Nothing is downloaded."""
        from .torch_engine import TorchEngine

        return cls(load_tokenizer(Path(folder)), TorchEngine.load_from(Path(folder)), turn_format)

    def close(self) -> None:
        """End the engine; also done when the model is dropped."""
        self.engine.close()

    # --- prompts ---

    def encode(self, text: str, history: Sequence[str] = (), max_new_tokens: int = 96) -> Prompt:
        """Token ids of a rendered prompt, cut at the left where it would not fit into the window.

        `max_new_tokens` positions are kept free for the answer, but never more than half of the window.
        With a history, or in the dialogue format, every turn is followed by the end-of-text token, as
        DialoGPT was trained (Zhang et al. 2020, section 3).
        """
        room = self._room(max_new_tokens)
        if not history and self.turn_format != DIALOGUE:
            return _fitted(self._last_ids(text, room), room)
        ids: list[int] = []
        for turn in reversed((*history, text)):  # the last turns are those that fit
            ids = [*self._turn_ids(turn, room), *ids]
            if len(ids) > room:
                break
        return _fitted(ids, room)

    def encode_plain(self, text: str, max_new_tokens: int = 96) -> Prompt:
        """Token ids of a text that is to be continued as it stands, whatever the turn format."""
        room = self._room(max_new_tokens)
        return replace(_fitted(self._last_ids(text, room), room), keeps_spaces=True)

    def _room(self, max_new_tokens: int) -> int:
        """Most tokens of a prompt."""
        window = self.engine.limits.window
        return max(window - max_new_tokens, window // 2)

    def encode_answer(self, answer: str, prompt_text: str, history: Sequence[str] = ()) -> list[int]:
        """Token ids of a known answer as it would follow the prompt: with a space after a plain prompt."""
        follows_turn = history or self.turn_format == DIALOGUE or prompt_text[-1:].isspace()
        return self._ids(answer if follows_turn else f" {answer}")

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _last_ids(self, text: str, count: int) -> list[int]:
        """Token ids of the text, or of its end where it has more than `count`: then more than `count` of them.

        A megabyte takes half a second to tokenise, and an event loop waits. So a long text is cut first, generously
        for ordinary text; where tokens are long (spaces, dashes), once more, for the longest tokens there are.
        """
        margin = max(_CUT_MARGIN, 2 * self._longest_token)
        for characters in (count * _CHARACTERS_A_TOKEN + margin, count * self._longest_token + margin):
            ids = self._ids(text[-characters:])
            if len(ids) > count or len(text) <= characters:
                break
        return ids

    def _turn_ids(self, turn: str, count: int) -> list[int]:
        if self.engine.limits.eos_id is None:
            raise bad_input("The model has no end-of-text token, which joins the turns of a dialogue.")
        return [*self._last_ids(turn, count), self.engine.limits.eos_id]

    # --- answers ---

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        on_start: Callable[[Callable[[], None]], None] | None = None,
    ) -> list[Answer]:
        """Answers in the order of the prompts; `sampling.timeout_s` is for all of them together.

        Args:
            on_start: told once with a function that another thread may call to stop the answers where they are.
        """
        news = threading.Event()
        answering = self._hand_in(prompts, sampling, news.set, each_token=bool(sampling.stop))
        try:
            if on_start:
                on_start(lambda: self._cancel(answering))
            while any([not item.advance()[1] for item in answering]):  # a list: every one is advanced
                news.wait(_WATCH_EVERY_S)
                news.clear()
        finally:
            self._cancel(answering)
        return [item.answer() for item in answering]

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[dict[str, Any]]:
        """Yield `{"delta": text}` as tokens arrive, then the whole answer as `Answer` fields with `"delta": ""`.

        Characters whose bytes span several tokens are held back until they are whole. Closing the
        iterator stops the generation after the step under way.
        """
        news = threading.Event()
        answering = self._hand_in([prompt], sampling, news.set, each_token=True)
        try:
            over = False
            while not over:
                delta, over = answering[0].advance()
                if delta:
                    yield {"delta": delta}
                elif not over:
                    news.wait(_WATCH_EVERY_S)
                    news.clear()
            yield {"delta": "", **asdict(answering[0].answer())}
        finally:
            self._cancel(answering)

    async def acomplete(self, prompt: Prompt, sampling: Sampling, group: int = 0) -> Answer:
        """As `complete` for one prompt, without holding a thread; cancelling the task stops the generation."""
        answering = [item async for item in self._aadvance(prompt, sampling, group, each_token=bool(sampling.stop))]
        return answering[-1][1].answer()

    async def astream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[dict[str, Any]]:
        """As `stream`, without holding a thread."""
        async for delta, answering in self._aadvance(prompt, sampling, 0, each_token=True):
            if delta:
                yield {"delta": delta}
            if answering.is_over:
                yield {"delta": "", **asdict(answering.answer())}

    async def _aadvance(
        self, prompt: Prompt, sampling: Sampling, group: int, each_token: bool
    ) -> AsyncIterator[tuple[str, Answering]]:
        """(new text, what is under way) for each piece of news; the last one is over."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        answering = self._hand_in([prompt], sampling, lambda: _wake(loop, news), each_token, group)
        try:
            over = False
            while not over:
                delta, over = answering[0].advance()
                if delta or over:
                    yield delta, answering[0]
                else:
                    await _next_news(news)
        finally:
            self._cancel(answering)

    def _hand_in(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        notify: Callable[[], None],
        each_token: bool,
        group: int = 0,
    ) -> list[Answering]:
        """Jobs for the prompts, in their order; given to the engine shortest first, so that little is padded."""
        group = group or (next_group() if len(prompts) > 1 else 0)
        answering = [
            Answering(prompt, Job(prompt.token_ids, sampling, notify, group=group, each_token=each_token), self)
            for prompt in prompts
        ]
        try:
            for item in sorted(answering, key=lambda item: len(item.prompt.token_ids)):
                self.engine.submit(item.job)
        except Exception:
            self._cancel(answering)
            raise
        return answering

    def _cancel(self, answering: Sequence[Answering]) -> None:
        """With one message to the engine, however many they are."""
        self.engine.cancel([item.job for item in answering])

    def log_likelihoods(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean natural-log probability per token of each known answer; at most 0, higher is likelier."""
        return self.engine.log_likelihoods([prompt.token_ids for prompt in prompts], answers)


class Answering:
    """One answer under way: its job, and the text so far."""

    def __init__(self, prompt: Prompt, job: Job, model: TextModel):
        self.prompt, self.job = prompt, job
        self._writer = Writer(model.tokenizer, job.sampling.stop, keeps_spaces=prompt.keeps_spaces)
        self.is_over = False

    def advance(self) -> tuple[str, bool]:
        """The text that is new and whether the answer is over. Raises EngineFailed when the engine failed."""
        self.job.check_alive()
        over = self.job.is_over  # looked at before the tokens: what comes in between is not lost
        self._writer.take(self.job.token_ids)
        if self._writer.has_stopped and not over:
            self.job.cancel()
            over = True
        self.is_over = over
        return self._writer.delta(over), over

    def answer(self) -> Answer:
        ids = self._writer.ids
        ended = self.job.ended
        total_s = ended.total_s if ended else self.job.running_s
        return Answer(
            answer=self._writer.text(),
            finish_reason=STOP if self._writer.has_stopped or ended is None else ended.finish_reason,
            prompt_tokens=len(self.prompt.token_ids),
            completion_tokens=len(ids),
            first_token_s=round(self.job.first_token_s, 4),
            total_s=round(total_s, 4),
            token_ids=ids,
            warnings=list(self.prompt.warnings),
            queued_s=round(self.job.queued_s, 4),
        )


def _fitted(ids: list[int], room: int) -> Prompt:
    if len(ids) <= room:
        return Prompt(ids)
    return Prompt(ids[-room:], (f"The prompt was too long for the model; its last {room} tokens were kept.",))


def next_group() -> int:
    """A number for the jobs of one call, so that no call keeps the others waiting."""
    return next(_groups)


def _wake(loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(news.set)


async def _next_news(news: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(news.wait(), _WATCH_EVERY_S)
    except TimeoutError:
        return
    news.clear()
