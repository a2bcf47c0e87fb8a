"""The served model: questions in, answers out. MLflow freezes this one file into the model's artifact.

What lives here: reading every accepted form of input, rendering the prompt, the turn format, and text
generation with transformers. What does not: anything of the orchestrator or of the server. The file
imports none of our packages, so a version that is loaded years later runs exactly the code it was
registered with. torch and transformers are imported when a model is loaded, not before.

Reading order: `HuggingFaceModelWrapper` (what MLflow calls) -> `TextModel` (text in, text out) ->
`TorchEngine` (token ids in, token ids out).
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

MAX_BATCH = 32  # rows generated at once; more rows are answered batch after batch, in the caller's order
SCORED_BATCH = 8  # scoring keeps the logits of every position: 0.3 GB for GPT-2 at 8 rows of 200 tokens
PLAIN, DIALOGUE = "plain", "dialogue"  # turn formats: a text to continue, or DialoGPT's joined turns
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON's escapes can name one; no tokenizer takes it
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


# --- what a caller may ask for --------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated. Raises MlflowException (served as a 400) naming the value that is wrong."""

    max_new_tokens: int = 96
    temperature: float = 0.0  # 0 is greedy: always the most likely token
    top_p: float = 1.0  # smallest set of tokens whose probabilities add up to this much
    top_k: int = 0  # 0 = all tokens
    repetition_penalty: float = 1.0  # above 1 makes a token less likely once it has been used
    seed: int = -1  # -1 = another draw on every call; without effect at temperature 0
    stop: tuple[str, ...] = ()  # the answer ends before the first of these strings
    timeout_s: float = 60.0  # for the whole call; the answer so far is returned with finish_reason "timeout"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(str(text) for text in self.stop))
        _require(1 <= self.max_new_tokens <= 1024, "max_new_tokens", self.max_new_tokens, "from 1 to 1024")
        _require(0 <= self.temperature <= 5, "temperature", self.temperature, "from 0 to 5")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and up to 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (all tokens) or more")
        _require(
            0.1 <= self.repetition_penalty <= 10,
            "repetition_penalty",
            self.repetition_penalty,
            "from 0.1 to 10",
        )
        _require(-1 <= self.seed < 2**63, "seed", self.seed, "-1 (a new draw each time) or more")
        _require(all(self.stop) and len(self.stop) <= 8, "stop", list(self.stop), "up to 8 strings, none empty")
        _require(0 < self.timeout_s <= 3600, "timeout_s", self.timeout_s, "above 0 and up to 3600")

    @classmethod
    def from_params(cls, params: Mapping[str, Any] | None) -> Sampling:
        """From MLflow's checked parameters; None stands for the default."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        return cls(**known)


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise _bad_input(f"{name} is {value!r}; use a value {allowed}.")


def _bad_input(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


@dataclass(frozen=True)
class Turn:
    """One question with the turns before it (question, answer, question, answer, ...; may be empty)."""

    question: str
    history: tuple[str, ...] = ()


def turns_from(model_input: Any) -> list[Turn]:
    """Every accepted form of input as a list of turns.

    Args:
        model_input: a string; a dict with "question" (a string or a list) and perhaps "history"; a list of
            strings or such dicts; a Series of strings; or a DataFrame with the column `question` (and `history`).

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE with one sentence for anything else.
    """
    if hasattr(model_input, "to_dict") and hasattr(model_input, "columns"):
        model_input = model_input.to_dict(orient="records")
    elif hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    items = model_input if isinstance(model_input, list) else [model_input]
    turns = [turn for item in items for turn in _turns_of_item(item)]
    if not turns:
        raise _bad_input("There is no question in the input; send at least one.")
    return turns


def _turns_of_item(item: Any) -> list[Turn]:
    if isinstance(item, Mapping):
        if "question" not in item:
            raise _bad_input(f"The input has no 'question'; it has {sorted(map(str, item))}.")
        questions, history = item["question"], _history_of(item.get("history"))
    else:
        questions, history = item, ()
    if hasattr(questions, "tolist"):
        questions = questions.tolist()
    many = questions if isinstance(questions, list) else [questions]
    return [Turn(_checked_text(question, "question"), history) for question in many]


def _history_of(value: Any) -> tuple[str, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    # pandas fills the history of rows that have none with NaN or NA
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ()
    if not isinstance(value, list | tuple):
        raise _bad_input("history must be a list of texts: question, answer, question, answer, ...")
    return tuple(_checked_text(text, "history") for text in value)


def _checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _bad_input(f"A {name} must be a text, not {type(value).__name__}.")
    if not value.strip():
        raise _bad_input(f"A {name} is empty; write some text.")
    if _HALF_CHARACTER.search(value):
        raise _bad_input(f"A {name} holds half of a character (a lone surrogate); send whole characters.")
    return value


# --- prompt and turn format -----------------------------------------------------------------------


def to_langchain_template(template: str) -> Any:
    """LangChain's PromptTemplate of a stored prompt: `{{name}}` is a variable, every other brace is text."""
    from langchain_core.prompts import PromptTemplate

    parts, end = [], 0
    for match in _VARIABLE.finditer(template):
        parts += [_escape_braces(template[end : match.start()]), "{" + match.group(1) + "}"]
        end = match.end()
    parts.append(_escape_braces(template[end:]))
    return PromptTemplate.from_template("".join(parts), template_format="f-string")


def _escape_braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# --- the engine: token ids in, token ids out ------------------------------------------------------


@dataclass(frozen=True)
class Generated:
    """What the engine made of one prompt."""

    token_ids: list[int]  # the end-of-text token is not among them
    finish_reason: str  # stop | length | timeout | cancelled
    first_token_s: float  # seconds from the batch's start to its first token
    total_s: float  # seconds from the batch's start to this row's end


class TorchEngine:
    """transformers' own `generate` on padded batches: works for any causal LM that transformers loads.

    One batch runs at a time (a lock); callers on several threads wait for each other.
    """

    name = "torch"

    def __init__(self, model: Any, eos_ids: frozenset[int]):
        self.model, self.eos_ids = model, eos_ids
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path) -> TorchEngine:
        """Load safetensors weights from a folder; never from the network, never from a pickle."""
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        eos = model.generation_config.eos_token_id
        eos = model.config.eos_token_id if eos is None else eos
        # transformers fills what a call leaves open from here: a checkpoint's own beams or limits would leak in.
        model.generation_config = GenerationConfig()
        return cls(model, frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos]))

    @property
    def pad_id(self) -> int:
        """What rows are filled up with; always masked."""
        return min(self.eos_ids, default=0)

    @property
    def window(self) -> int:
        """How many tokens, prompt and answer together, the model can see."""
        return getattr(self.model.config, "max_position_embeddings", 1024)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        ends_text: Callable[[list[int]], bool] | None = None,
        on_token: Callable[[int, int], bool] | None = None,
    ) -> list[Generated]:
        """Continue every prompt, all in one batch.

        Args:
            prompts: token ids, none empty, each short enough for the window with `sampling.max_new_tokens`.
            ends_text: says whether the tokens of a row so far hold a stop string.
            on_token: told (row, token id) for each new token; False cancels the batch.
        """
        import torch

        watch = _Watch(self.eos_ids, sampling, len(prompts), ends_text, on_token)
        with self._lock, torch.inference_mode(), torch.random.fork_rng(devices=[], enabled=sampling.temperature > 0):
            if sampling.temperature > 0:
                torch.manual_seed(sampling.seed) if sampling.seed >= 0 else torch.seed()
            input_ids, mask = self._padded(prompts, left=True)
            self.model.generate(
                input_ids,
                attention_mask=mask,
                generation_config=self._generation_config(sampling),
                logits_processor=self._repetition_penalty(sampling, mask),
                stopping_criteria=[watch.after_step(input_ids.shape[1])],
            )
        return watch.results()

    def log_likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean natural-log probability per token of each answer after its prompt; at most 0, higher is likelier.

        An answer that does not fit into the window after its prompt is cut at the right.
        """
        import torch

        rows = [[*prompt, *answer][: self.window] for prompt, answer in zip(prompts, answers, strict=True)]
        with self._lock, torch.inference_mode():
            input_ids, mask = self._padded(rows, left=False)
            logits = self.model(input_ids, attention_mask=mask).logits[:, :-1]  # (batch, length - 1, vocab)
            chosen = logits.gather(2, input_ids[:, 1:, None])[..., 0] - logits.logsumexp(2)
        return [float(chosen[i, len(prompt) - 1 : len(rows[i]) - 1].mean()) for i, prompt in enumerate(prompts)]

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Any, Any]:
        """Rows of different lengths as ids and mask, both (batch, longest)."""
        import torch

        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(0, len(row))
            input_ids[i, place] = torch.tensor(row, dtype=torch.long)
            mask[i, place] = 1
        return input_ids, mask

    def _generation_config(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=sorted(self.eos_ids) or None,
            pad_token_id=self.pad_id,
            do_sample=sampling.temperature > 0,
        )
        if sampling.temperature > 0:
            config.temperature, config.top_p, config.top_k = (
                sampling.temperature,
                sampling.top_p,
                sampling.top_k,
            )
        return config

    @staticmethod
    def _repetition_penalty(sampling: Sampling, mask: Any) -> list[Any]:
        """transformers' own, told where the padding ends: else a short row would be penalised for padding."""
        from transformers import RepetitionPenaltyLogitsProcessor

        if sampling.repetition_penalty == 1:
            return []
        return [RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty), (1 - mask).sum(1))]


class _Watch:
    """Follows one running batch: which rows are done and why, the deadline, cancellation, and the clock."""

    def __init__(self, eos_ids, sampling, rows, ends_text, on_token):
        self.eos_ids, self.sampling, self.ends_text, self.on_token = eos_ids, sampling, ends_text, on_token
        self.started, self.first_s = time.monotonic(), 0.0
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.reasons: list[str | None] = [None] * rows
        self.ended_s = [0.0] * rows

    def after_step(self, prompt_length: int) -> Any:
        """The stopping criterion that transformers calls after every step with all ids so far."""
        import torch
        from transformers import StoppingCriteria

        watch = self

        class AfterStep(StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                return torch.tensor(watch.step(input_ids[:, -1].tolist()))

        return AfterStep()

    def step(self, new_ids: list[int]) -> list[bool]:
        """Take one new token a row; True for each row that is done."""
        now = time.monotonic() - self.started
        self.first_s = self.first_s or now
        for row, token in enumerate(new_ids):
            if self.reasons[row] is None:
                self._take(row, token, now)
        return [reason is not None for reason in self.reasons]

    def _take(self, row: int, token: int, now: float) -> None:
        self.ended_s[row] = now
        if token in self.eos_ids:
            self.reasons[row] = "stop"
            return
        self.tokens[row].append(token)
        if self.ends_text and self.ends_text(self.tokens[row]):
            self.reasons[row] = "stop"
        elif self.on_token and not self.on_token(row, token):
            self.reasons[row] = "cancelled"
        elif now > self.sampling.timeout_s:
            self.reasons[row] = "timeout"

    def results(self) -> list[Generated]:
        return [
            Generated(tokens, reason or "length", self.first_s, ended)
            for tokens, reason, ended in zip(self.tokens, self.reasons, self.ended_s, strict=True)
        ]


# --- text in, text out ----------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt as token ids, ready for the engine."""

    token_ids: list[int]
    warnings: tuple[str, ...] = ()


class TextModel:
    """Tokenizer and engine of one checkpoint, with its turn format: prompts in, answers out."""

    def __init__(self, tokenizer: Any, engine: TorchEngine, turn_format: str):
        self.tokenizer, self.engine, self.turn_format = tokenizer, engine, turn_format

    @classmethod
    def load(cls, folder: str | Path, turn_format: str = PLAIN) -> TextModel:
        """Load a HuggingFace causal LM with safetensors weights from a folder. Nothing is downloaded."""
        from transformers import AutoTokenizer

        if turn_format not in (PLAIN, DIALOGUE):
            raise _bad_input(f"turn format is {turn_format!r}; use {PLAIN!r} or {DIALOGUE!r}.")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(tokenizer, TorchEngine.load(Path(folder)), turn_format)

    def encode(self, text: str, history: Sequence[str] = (), max_new_tokens: int = 96) -> Prompt:
        """Token ids of a rendered prompt, cut at the left where it would not fit into the window.

        `max_new_tokens` positions are kept free for the answer, but never more than half of the window.
        With a history, or in the dialogue format, every turn is followed by the end-of-text token, as
        DialoGPT was trained (Zhang et al. 2020, section 3).
        """
        if history or self.turn_format == DIALOGUE:
            ids = [token for turn in (*history, text) for token in self._turn_ids(turn)]
        else:
            ids = self._ids(text)
        room = max(self.engine.window - max_new_tokens, self.engine.window // 2)
        if len(ids) <= room:
            return Prompt(ids)
        return Prompt(ids[-room:], (f"The prompt has {len(ids)} tokens; the first {len(ids) - room} were cut off.",))

    def encode_answer(self, answer: str, prompt_text: str, history: Sequence[str] = ()) -> list[int]:
        """Token ids of a known answer as it would follow the prompt: with a space after a plain prompt."""
        follows_turn = history or self.turn_format == DIALOGUE or prompt_text[-1:].isspace()
        return self._ids(answer if follows_turn else f" {answer}")

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answer]:
        """Answers in the order of the prompts; `sampling.timeout_s` is for all of them together."""
        started = time.monotonic()
        answers: dict[int, Answer] = {}
        for chunk in self._batches(prompts, sampling):
            rows = [prompts[i].token_ids for i in chunk]
            fitted = self._fitted(sampling, rows, time.monotonic() - started)
            done = self.engine.generate(rows, fitted, self._stop_check(sampling))
            answers |= {i: self._answer(prompts[i], out, sampling) for i, out in zip(chunk, done, strict=True)}
        return [answers[i] for i in range(len(prompts))]

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[dict[str, Any]]:
        """Yield `{"delta": text}` as tokens arrive, then the whole answer as `Answer` fields with `"delta": ""`.

        Characters whose bytes span several tokens are held back until they are whole. Closing the
        iterator stops the generation after the step under way.
        """
        events: queue.Queue = queue.Queue()
        open_ = threading.Event()
        open_.set()
        worker = threading.Thread(target=self._generate_into, args=(events, open_, prompt, sampling), daemon=True)
        worker.start()
        try:
            yield from self._deltas(events, prompt, sampling)
        finally:
            open_.clear()

    def log_likelihoods(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean log-probability per token of each known answer; batched as `complete` is."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids) + len(answers[i]))
        scores: dict[int, float] = {}
        for start in range(0, len(order), SCORED_BATCH):
            chunk = order[start : start + SCORED_BATCH]
            values = self.engine.log_likelihoods([prompts[i].token_ids for i in chunk], [answers[i] for i in chunk])
            scores |= dict(zip(chunk, values, strict=True))
        return [scores[i] for i in range(len(prompts))]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _turn_ids(self, turn: str) -> list[int]:
        if not self.engine.eos_ids:
            raise _bad_input("The model has no end-of-text token, which joins the turns of a dialogue.")
        return [*self._ids(turn), min(self.engine.eos_ids)]

    def _batches(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[list[int]]:
        """Indices of the prompts that are answered together: of like length, so that little is padded.

        Where the window ends an answer early, only prompts of one length share a batch: no row then gets
        fewer tokens than it would get alone.
        """
        free = self.engine.window - sampling.max_new_tokens  # a prompt up to this length leaves room for all of them
        lengths = [len(prompt.token_ids) for prompt in prompts]
        for _, like in groupby(sorted(range(len(prompts)), key=lengths.__getitem__), lambda i: max(free, lengths[i])):
            group = list(like)
            yield from (group[start : start + MAX_BATCH] for start in range(0, len(group), MAX_BATCH))

    def _fitted(self, sampling: Sampling, rows: Sequence[Sequence[int]], used_s: float = 0.0) -> Sampling:
        """No more new tokens than the window has left after the longest row, no more time than the call has left."""
        most = self.engine.window - max(map(len, rows))
        left_s = max(sampling.timeout_s - used_s, 1e-3)
        return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, most), timeout_s=left_s)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _stop_check(self, sampling: Sampling) -> Callable[[list[int]], bool] | None:
        if not sampling.stop:
            return None
        return lambda ids: any(text in self._decode(ids) for text in sampling.stop)

    def _answer(self, prompt: Prompt, out: Generated, sampling: Sampling) -> Answer:
        return Answer(
            answer=_cut_at_stop(self._decode(out.token_ids), sampling.stop).strip(),
            finish_reason=out.finish_reason,
            prompt_tokens=len(prompt.token_ids),
            completion_tokens=len(out.token_ids),
            first_token_s=round(out.first_token_s, 4),
            total_s=round(out.total_s, 4),
            token_ids=out.token_ids,
            warnings=list(prompt.warnings),
        )

    def _generate_into(self, events: queue.Queue, open_: threading.Event, prompt: Prompt, sampling: Sampling) -> None:
        def on_token(_row: int, token: int) -> bool:
            events.put(token)
            return open_.is_set()

        try:
            row = [prompt.token_ids]
            out = self.engine.generate(row, self._fitted(sampling, row), self._stop_check(sampling), on_token)
            events.put(out[0])
        except Exception as exc:  # noqa: BLE001 - handed to the caller's thread, which raises it
            events.put(exc)

    def _deltas(self, events: queue.Queue, prompt: Prompt, sampling: Sampling) -> Iterator[dict[str, Any]]:
        ids: list[int] = []
        sent = 0
        while True:
            event = events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Generated):
                answer = self._answer(prompt, event, sampling)
                if answer.answer[sent:]:
                    yield {"delta": answer.answer[sent:]}
                yield {"delta": "", **asdict(answer)}
                return
            ids.append(event)
            text = self._safe_text(ids, sampling)
            if len(text) > sent:
                yield {"delta": text[sent:]}
                sent = len(text)

    def _safe_text(self, ids: list[int], sampling: Sampling) -> str:
        """The text so far, less what may still change: broken characters, a space at the end, half a stop string."""
        text = self._decode(ids).rstrip("\ufffd").strip()
        longest = max((len(stop) for stop in sampling.stop), default=0)
        return text[: max(0, len(text) - longest)] if longest else text


def _cut_at_stop(text: str, stop: Sequence[str]) -> str:
    ends = [text.index(item) for item in stop if item in text]
    return text[: min(ends)] if ends else text


# --- what MLflow calls ----------------------------------------------------------------------------


class HuggingFaceModelWrapper(mlflow.pyfunc.PythonModel):
    """A HuggingFace causal LM with its prompt, as an MLflow PyFunc.

    Artifacts: `model` (a folder in HuggingFace format, safetensors only), `prompt` (a JSON file: name,
    version, template, turn_format) and, perhaps, `golden` (questions with the answers recorded at deploy).
    `predict` is safe to call from several threads.
    """

    def load_context(self, context: Any) -> None:
        self.prompt = json.loads(Path(context.artifacts["prompt"]).read_text("utf-8"))
        golden = context.artifacts.get("golden")
        self.golden = json.loads(Path(golden).read_text("utf-8")) if golden else []  # for a server to replay
        self._use_threads()
        self.text_model = TextModel.load(context.artifacts["model"], self.prompt["turn_format"])
        self._template = to_langchain_template(self.prompt["template"])

    # The hint says less than `turns_from` accepts. pd.DataFrame is the one hint that MLflow neither warns about
    # nor enforces; any other one would refuse some of the accepted forms (docs/decisions/0003).
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Answer every question of the input, in order; one dict of `Answer` fields for each."""
        sampling = Sampling.from_params(params)
        prompts = [self._encode(turn, sampling) for turn in turns_from(model_input)]
        return [asdict(answer) for answer in self.text_model.complete(prompts, sampling)]

    def predict_stream(self, context, model_input: pd.DataFrame, params=None):
        """Answer one question piece by piece; see `TextModel.stream` for what is yielded."""
        sampling = Sampling.from_params(params)
        turns = turns_from(model_input)
        if len(turns) != 1:
            raise _bad_input(f"A stream answers one question; the input has {len(turns)}.")
        yield from self.text_model.stream(self._encode(turns[0], sampling), sampling)

    def _encode(self, turn: Turn, sampling: Sampling) -> Prompt:
        """The prompt template is for a first question; with a history the turns speak for themselves."""
        text = turn.question if turn.history else self._template.format(question=turn.question)
        return self.text_model.encode(text, turn.history, sampling.max_new_tokens)

    @staticmethod
    def _use_threads() -> None:
        if threads := os.environ.get("THREADS"):
            import torch

            torch.set_num_threads(int(threads))


mlflow.models.set_model(HuggingFaceModelWrapper())
