"""LangChain's `HuggingFacePipeline` over the served model's engine, for the experiment and for notebooks.

`EnginePipeline` has the shape of `transformers.pipeline("text-generation", ...)`, so LangChain's own class takes it.
`EngineLLM` is that class with what it leaves out: stop texts in every call, and what an answer cost (decision 0012).
Cases and their times are not known here: see generation.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_huggingface import HuggingFacePipeline
from pydantic import InstanceOf

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError
from genai_lifecycle.models.source import find_model
from served_model.text_generation.sampling import Sampling
from served_model.text_generation.text_model import Answer, Prompt, TextModel

TASK = "text-generation"
TIMEOUT_S = 3600.0  # nobody waits at the other end: a slow machine takes longer, and its answers stay whole
_OURS = {name for name in Sampling.__dataclass_fields__ if name != "stop"}
_SETTINGS = _OURS | {"do_sample", "stop_strings", "return_full_text"}
_WITHOUT_EFFECT = {"batch_size", "pad_token_id", "clean_up_tokenization_spaces"}  # what our engine decides by itself


class EnginePipeline:
    """What `transformers.pipeline("text-generation", ...)` returns, with our engine in its place.

    Settings are transformers' own names (`max_new_tokens`, `do_sample`, `temperature`, `top_p`, `top_k`,
    `repetition_penalty`, `stop_strings`, `return_full_text`) with `seed` and `timeout_s`; those given here hold for
    every call that does not say otherwise. Greedy unless `temperature` or `do_sample` asks for a draw.
    """

    task = TASK

    def __init__(self, text_model: TextModel, name: str = "", **settings: Any):
        self.text_model = text_model
        self.model = SimpleNamespace(name_or_path=name)  # LangChain calls the model so
        self.tokenizer = _Tokenizer()
        self._settings = settings
        _sampling(settings)  # a wrong one is named now, not at the first question

    @classmethod
    def load(cls, model: str | None = None, **settings: Any) -> EnginePipeline:
        """The bundled GPT-2, a folder or a Hub name, on the torch engine. Raises ModelNotLoadable."""
        source = find_model(E2EConfig(model=model))
        return cls(TextModel.load(source.path, source.turn_format), source.name, **settings)

    def __call__(self, text_inputs: str | Sequence[str], streamer: Any = None, **settings: Any) -> list:
        """`[{"generated_text": …}]` for a text, a list of these for a list; piece by piece into a `streamer` too."""
        if streamer is not None:
            settings.pop("stopping_criteria", None)  # LangChain's, for stop tokens; _Tokenizer has refused to name any
            return [{"generated_text": self._feed(streamer, text_inputs, settings)}]
        if isinstance(text_inputs, str):
            return [{"generated_text": self._texts([text_inputs], settings)[0]}]
        return [[{"generated_text": text}] for text in self._texts(text_inputs, settings)]

    def answers(self, texts: Sequence[str], settings: Mapping[str, Any]) -> list[Answer]:
        """The engine's answers, in the order of the texts, which it joins as it sees fit."""
        sampling = _sampling(self._settings | settings)
        return self.text_model.complete([self._prompt(text, sampling, settings) for text in texts], sampling)

    def stream(self, text: str, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """`{"delta": text}` as it comes; the last one has the fields of `Answer` as well."""
        sampling = _sampling(self._settings | settings)
        return self.text_model.stream(self._prompt(text, sampling, settings), sampling)

    def returns_prompt(self, settings: Mapping[str, Any]) -> bool:
        return bool((self._settings | settings).get("return_full_text", True))

    def _prompt(self, text: str, sampling: Sampling, settings: Mapping[str, Any]) -> Prompt:
        """The prompt as it is served; an answer that is to follow it in one text keeps the space between the two."""
        prompt = self.text_model.encode(text, (), sampling.max_new_tokens)
        return replace(prompt, keeps_spaces=self.returns_prompt(settings))

    def _texts(self, texts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        before = texts if self.returns_prompt(settings) else [""] * len(texts)
        return [text + item.answer for text, item in zip(before, self.answers(texts, settings), strict=True)]

    def _feed(self, streamer: Any, text: str, settings: Mapping[str, Any]) -> str:
        """Every piece to a streamer of transformers, which waits in another thread and must hear of the end."""
        pieces = [] if streamer.skip_prompt else [text]
        try:
            for piece in pieces:
                streamer.on_finalized_text(piece)
            for item in self.stream(text, settings):
                pieces.append(item["delta"])
                streamer.on_finalized_text(item["delta"])
        finally:
            streamer.on_finalized_text("", stream_end=True)
        return "".join(pieces)


class _Tokenizer:
    """Stands where LangChain looks for a tokenizer, to turn stop texts into tokens when it streams."""

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        raise ConfigError(
            "LangChain's HuggingFacePipeline can only stop a stream at single tokens.",
            hint='Take EngineLLM in its place, or pipeline_kwargs={"stop_strings": [...]}: both stop at any text.',
        )


class EngineLLM(HuggingFacePipeline):
    """LangChain's HuggingFacePipeline over an `EnginePipeline`: `stop` holds, and so do the constructor's settings.

    `generation_info` has the fields of `Answer`: token counts and ids, times, why it ended.
    """

    pipeline: InstanceOf[EnginePipeline]

    @classmethod
    def from_model_id(cls, model_id: str, task: str = TASK, **more: Any) -> EngineLLM:
        """LangChain's own way to make one; `model_id` as `--model` takes it."""
        pipeline_kwargs = more.pop("pipeline_kwargs", None) or {}
        more.pop("batch_size", None)  # the engine's own affair
        unfit = [name for name, value in more.items() if value is not None] + [task] * (task != TASK)
        if unfit:
            raise ConfigError(
                f"{unfit[0]!r} is not for this engine, which continues texts on the CPU.",
                hint="Leave it out; settings of an answer belong in pipeline_kwargs.",
            )
        pipeline = EnginePipeline.load(model_id, **pipeline_kwargs)
        return cls(pipeline=pipeline, model_id=model_id, pipeline_kwargs=pipeline_kwargs)

    def _generate(self, prompts: list[str], stop=None, run_manager=None, **kwargs: Any) -> LLMResult:
        settings = self._settings(stop, kwargs)
        with_prompt = self.pipeline.returns_prompt(settings) and not kwargs.get("skip_prompt", False)
        answers = self.pipeline.answers(prompts, settings)
        return LLMResult(
            generations=[
                [Generation(text=(prompt if with_prompt else "") + answer.answer, generation_info=asdict(answer))]
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        )

    def _stream(self, prompt: str, stop=None, run_manager=None, **kwargs: Any) -> Iterator[GenerationChunk]:
        pieces = self.pipeline.stream(prompt, self._settings(stop, kwargs))
        if not kwargs.get("skip_prompt", True):
            yield GenerationChunk(text=prompt)
        for piece in pieces:
            delta = piece.pop("delta")
            chunk = GenerationChunk(text=delta, generation_info=piece or None)
            if run_manager:
                run_manager.on_llm_new_token(delta, chunk=chunk)
            yield chunk

    def _settings(self, stop: Sequence[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        settings = {**(self.pipeline_kwargs or {}), **kwargs.get("pipeline_kwargs", {})}
        return settings | ({"stop_strings": list(stop)} if stop else {})


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """transformers' settings as ours. Raises ConfigError naming one that this engine does not know."""
    unknown = sorted(set(settings) - _SETTINGS - _WITHOUT_EFFECT)
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no setting of an answer.", hint=f"Use {', '.join(sorted(_SETTINGS))}.")
    values = {name: value for name, value in settings.items() if name in _OURS and value is not None}
    draws = settings.get("do_sample", "temperature" in values)
    stops = settings.get("stop_strings") or ()
    return Sampling(
        **{"timeout_s": TIMEOUT_S, **values, "temperature": values.get("temperature", 1.0) if draws else 0.0},
        stop=(stops,) if isinstance(stops, str) else tuple(stops),
    )
