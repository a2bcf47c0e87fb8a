"""Questions in, answers out: one packaged model with its frozen prompt, as MLflow and a server use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .checkpoint import load_tokenizer
from .choice import Wanted, choose_engine
from .engine import Load
from .errors import bad_input
from .inputs import Turn, turns_from
from .prompt import to_langchain_template
from .sampling import Sampling
from .text_model import Prompt, TextModel, next_group


class QuestionModel:
    """A checkpoint, its engine and its prompt. Safe to use from several threads and from one event loop."""

    def __init__(self, text_model: TextModel, prompt: Mapping[str, Any], golden: Sequence[dict], reason: str):
        self.text_model, self.prompt, self.reason = text_model, dict(prompt), reason
        self._golden = list(golden)
        self._template = to_langchain_template(prompt["template"])

    @classmethod
    def load(cls, artifacts: Mapping[str, str], model_config: Mapping[str, Any] | None = None) -> QuestionModel:
        """From the artifacts of a package: `model`, `prompt` and perhaps `ir` and `golden`; see `choose_engine`."""
        prompt = json.loads(Path(artifacts["prompt"]).read_text("utf-8"))
        golden = json.loads(Path(artifacts["golden"]).read_text("utf-8")) if "golden" in artifacts else []
        model = Path(artifacts["model"])
        ir = Path(artifacts["ir"]) if "ir" in artifacts else None
        chosen = choose_engine(model, ir, Wanted.from_settings(model_config))
        text_model = TextModel(load_tokenizer(model), chosen.engine, prompt["turn_format"])
        return cls(text_model, prompt, golden, chosen.reason)

    # --- for MLflow, a notebook, a batch job ---

    def answer(
        self,
        model_input: Any,
        params: Mapping[str, Any] | None = None,
        on_start: Callable[[Callable[[], None]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Answer every question of the input, in order; one dict of `Answer` fields for each.

        Args:
            on_start: told once with a function that another thread may call to stop the answers where they are.
        """
        sampling = Sampling.from_params(params)
        prompts = [self._encode(turn, sampling) for turn in turns_from(model_input)]
        return [asdict(answer) for answer in self.text_model.complete(prompts, sampling, on_start)]

    def stream(
        self, model_input: Any, params: Mapping[str, Any] | None = None, *, is_rendered: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Answer one question piece by piece; see `TextModel.stream` for what is yielded, `ask` for `is_rendered`."""
        sampling = Sampling.from_params(params)
        turns = turns_from(model_input)
        if len(turns) != 1:
            raise bad_input(f"A stream answers one question; the input has {len(turns)}.")
        yield from self.text_model.stream(self._encode(turns[0], sampling, is_rendered), sampling)

    # --- for a server's event loop ---

    def new_group(self) -> int:
        """A number for the questions of one caller, so that they take turns with other callers'."""
        return next_group()

    async def ask(
        self, model_input: Any, params: Mapping[str, Any] | None = None, *, is_rendered: bool = False, group: int = 0
    ) -> list[dict[str, Any]]:
        """As `answer`, without holding a thread; cancelling the task stops the generation.

        Args:
            is_rendered: the questions are whole prompts already, so the frozen one stays out.
            group: from `new_group`, for questions of one caller that come in several calls; 0 = these alone.
        """
        sampling = Sampling.from_params(params)
        prompts = [self._encode(turn, sampling, is_rendered) for turn in turns_from(model_input)]
        group = group or (next_group() if len(prompts) > 1 else 0)
        answers = [self.text_model.acomplete(prompt, sampling, group) for prompt in prompts]
        return [asdict(answer) for answer in await asyncio.gather(*answers)]

    def ask_stream(
        self, model_input: Any, params: Mapping[str, Any] | None = None, *, is_rendered: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """As `stream`, without holding a thread; `is_rendered` as in `ask`. Bad input raises here, before a piece."""
        sampling = Sampling.from_params(params)
        turns = turns_from(model_input)
        if len(turns) != 1:
            raise bad_input(f"A stream answers one question; the input has {len(turns)}.")
        return self.text_model.astream(self._encode(turns[0], sampling, is_rendered), sampling)

    async def continue_text(
        self, text: str, params: Mapping[str, Any] | None = None, *, group: int = 0
    ) -> dict[str, Any]:
        """Continue a text as it stands, without the prompt template; `Answer` fields. `group` as in `ask`."""
        sampling = Sampling.from_params(params)
        prompt = self.text_model.encode_plain(text, sampling.max_new_tokens)
        return asdict(await self.text_model.acomplete(prompt, sampling, group))

    def continue_text_stream(self, text: str, params: Mapping[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """As `continue_text`, piece by piece."""
        sampling = Sampling.from_params(params)
        return self.text_model.astream(self.text_model.encode_plain(text, sampling.max_new_tokens), sampling)

    # --- for whoever looks after it ---

    @property
    def golden(self) -> list[dict[str, Any]]:
        """Questions with the greedy tokens that this engine must give again: those recorded for it at deploy."""
        engine = self.text_model.engine.name
        return [{**item, "token_ids": item.get(f"{engine}_token_ids", item["token_ids"])} for item in self._golden]

    def describe(self) -> dict[str, Any]:
        """The engine that answers, and why it is this one."""
        return {**self.text_model.engine.describe(), "reason": self.reason}

    def is_healthy(self) -> bool:
        """Whether the engine can answer now."""
        return self.text_model.engine.is_healthy()

    def failure(self) -> str:
        """Why it will never answer again; empty while it can."""
        return self.text_model.engine.failure()

    def engine_load(self) -> Load:
        """How busy the engine is."""
        return self.text_model.engine.load()

    def close(self) -> None:
        """End the engine; also done when the model is dropped, and at the interpreter's exit."""
        self.text_model.engine.close()

    def _encode(self, turn: Turn, sampling: Sampling, is_rendered: bool = False) -> Prompt:
        """The prompt template is for a first question; with a history the turns speak for themselves."""
        text = turn.question if turn.history or is_rendered else self._template.format(question=turn.question)
        return self.text_model.encode(text, turn.history, sampling.max_new_tokens)
