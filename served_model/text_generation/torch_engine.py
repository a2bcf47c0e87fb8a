"""The torch engine: transformers' own `generate` on padded batches, for any causal LM that transformers loads.

The reference that the OpenVINO engine is compared with, and its stand-in. One thread runs batch after batch; a job
that comes meanwhile joins the next one.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .checkpoint import Limits, read_limits
from .engine import CANCELLED, LENGTH, STOP, TIMEOUT, Job, Load, check_ids, most_new_tokens
from .errors import EngineFailed

MAX_BATCH = 32  # jobs generated at once
SCORED_BATCH = 8  # scoring keeps the logits of every position: 0.3 GB for GPT-2 at 8 rows of 200 tokens
_CLOSE = None  # in the queue: the end


class TorchEngine:
    """Padded batches of jobs that ask for the same sampling."""

    name = "torch"

    def __init__(self, model: Any, limits: Limits):
        self.limits = limits
        self._batches = _Batches(model, limits)
        # The thread holds `_batches` only, so that a dropped model is collected.
        self._finalizer = weakref.finalize(self, self._batches.close)
        threading.Thread(target=self._batches.run, name="engine-batches", daemon=True).start()

    @classmethod
    def load_from(cls, folder: Path, threads: int | None = None) -> TorchEngine:
        """Load safetensors weights from a folder; never from the network, never from a pickle."""
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        if threads:
            torch.set_num_threads(threads)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        # transformers fills what a call leaves open from here: a checkpoint's own beams or limits would leak in.
        model.generation_config = GenerationConfig()
        return cls(model, read_limits(folder))

    @property
    def model(self) -> Any:
        return self._batches.model

    def submit(self, job: Job) -> None:
        check_ids(job.prompt, self.limits)
        if most_new_tokens(job, self.limits) < 1:
            job.end(LENGTH)
            return
        self._batches.add(job)

    def log_likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        rows = [[*prompt, *answer][: self.limits.window] for prompt, answer in zip(prompts, answers, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores: dict[int, float] = {}
        for start in range(0, len(order), SCORED_BATCH):
            chunk = order[start : start + SCORED_BATCH]
            values = self._batches.score([rows[i] for i in chunk], [len(prompts[i]) for i in chunk])
            scores |= dict(zip(chunk, values, strict=True))
        return [scores[i] for i in range(len(rows))]

    def is_healthy(self) -> bool:
        return not self._batches.is_closed

    def load(self) -> Load:
        return self._batches.load()

    def describe(self) -> dict[str, Any]:
        import torch

        return {
            "name": self.name, "version": torch.__version__, "precision": "fp32", "threads": torch.get_num_threads(),
        }  # fmt: skip

    def close(self) -> None:
        self._finalizer()


class _Batches:
    """The queue of jobs and the thread that works it off."""

    def __init__(self, model: Any, limits: Limits):
        self.model, self.limits = model, limits
        self.is_closed = False
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._cancelled = 0
        self._computing = threading.Lock()  # generation and scoring take turns

    def add(self, job: Job) -> None:
        if self.is_closed:
            raise EngineFailed("The model was closed.")
        job.when_cancelled(self._count_cancelled)
        self._queue.put(job)

    def close(self) -> None:
        self.is_closed = True
        self._queue.put(_CLOSE)

    def load(self) -> Load:
        return Load(len(self._running), len(self._waiting) + self._queue.qsize(), self._cancelled)

    def run(self) -> None:
        """Batch after batch until the end; an exception fails its batch, not the engine."""
        while self._gather():
            batch = self._running = self._next_batch()
            try:
                with self._computing:
                    self._generate(batch)
            except Exception as exc:  # noqa: BLE001 - handed to the callers, who raise it
                failure = EngineFailed(f"The engine failed: {exc}")
                for job in batch:
                    job.fail(failure)
            self._running = []
        for job in self._waiting:
            job.fail(EngineFailed("The model was closed."))

    def score(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[float]:
        """Mean log-probability of each row's tokens from its start on."""
        import torch

        with self._computing, torch.inference_mode():
            input_ids, mask = self._padded(rows, left=False)
            logits = self.model(input_ids, attention_mask=mask).logits[:, :-1]  # (batch, length - 1, vocab)
            chosen = logits.gather(2, input_ids[:, 1:, None])[..., 0] - logits.logsumexp(2)
        return [float(chosen[i, start - 1 : len(rows[i]) - 1].mean()) for i, start in enumerate(starts)]

    # --- which jobs share a batch ---

    def _gather(self) -> bool:
        """Take what has come; waits for the first job. False at the end."""
        while not self._waiting or not self._queue.empty():
            job = self._queue.get()
            if job is _CLOSE:
                return False
            self._waiting.append(job)
        return True

    def _next_batch(self) -> list[Job]:
        """The oldest job and those that fit to it.

        Rows that are done go on with padding until the batch is, so the longest prompt and the longest answer
        must fit into the window together. A seeded draw is made alone: its place in a batch would change it.
        """
        first = self._waiting[0]
        longest, most = len(first.prompt), most_new_tokens(first, self.limits)
        batch = [first]
        for job in self._waiting[1:]:
            new_longest = max(longest, len(job.prompt))
            new_most = max(most, most_new_tokens(job, self.limits))
            fits = new_longest + new_most <= self.limits.window
            if len(batch) < MAX_BATCH and fits and _kind(job) == _kind(first) and not _is_seeded(first):
                batch.append(job)
                longest, most = new_longest, new_most
        self._waiting = [job for job in self._waiting if job not in batch]
        return batch

    # --- one batch ---

    def _generate(self, batch: list[Job]) -> None:
        import torch

        sampling = batch[0].sampling
        with torch.inference_mode(), torch.random.fork_rng(devices=[], enabled=not sampling.is_greedy):
            if not sampling.is_greedy:
                torch.manual_seed(sampling.seed) if sampling.seed >= 0 else torch.seed()
            input_ids, mask = self._padded([job.prompt for job in batch], left=True)
            self.model.generate(
                input_ids,
                attention_mask=mask,
                generation_config=self._generation_config(batch),
                logits_processor=self._repetition_penalty(batch, mask),
                stopping_criteria=[self._after_step(batch)],
            )
        for job in batch:
            job.end(LENGTH)

    def _after_step(self, batch: list[Job]) -> Any:
        """The stopping criterion that transformers calls after every step with all ids so far."""
        import torch
        from transformers import StoppingCriteria

        limits = self.limits

        class AfterStep(StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                for job, token in zip(batch, input_ids[:, -1].tolist(), strict=True):
                    if not job.is_over:
                        _take(job, token, limits)
                return torch.tensor([job.is_over for job in batch])

        return AfterStep()

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Any, Any]:
        """Rows of different lengths as ids and mask, both (batch, longest)."""
        import torch

        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.limits.eos_id or 0, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(0, len(row))
            input_ids[i, place] = torch.tensor(row, dtype=torch.long)
            mask[i, place] = 1
        return input_ids, mask

    def _generation_config(self, batch: list[Job]) -> Any:
        from transformers import GenerationConfig

        sampling = batch[0].sampling
        config = GenerationConfig(
            max_new_tokens=max(most_new_tokens(job, self.limits) for job in batch),
            eos_token_id=sorted(self.limits.eos_ids) or None,
            pad_token_id=self.limits.eos_id or 0,
            do_sample=not sampling.is_greedy,
        )
        if not sampling.is_greedy:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
            config.top_k = sampling.top_k
        return config

    @staticmethod
    def _repetition_penalty(batch: list[Job], mask: Any) -> list[Any]:
        """transformers' own, told where the padding ends: else a short row would be penalised for padding."""
        from transformers import RepetitionPenaltyLogitsProcessor

        penalty = batch[0].sampling.repetition_penalty
        return [] if penalty == 1 else [RepetitionPenaltyLogitsProcessor(float(penalty), (1 - mask).sum(1))]

    def _count_cancelled(self) -> None:
        self._cancelled += 1


def _kind(job: Job) -> tuple:
    """Jobs of one kind can share a batch."""
    sampling = job.sampling
    return (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty, _is_seeded(job))


def _is_seeded(job: Job) -> bool:
    return not job.sampling.is_greedy and job.sampling.seed >= 0


def _take(job: Job, token: int, limits: Limits) -> None:
    """One new token of a job, and whether it is the last."""
    if token in limits.eos_ids:
        job.end(STOP)
        return
    job.extend([token])
    if job.is_cancelled:
        job.end(CANCELLED)
    elif len(job.token_ids) >= most_new_tokens(job, limits):
        job.end(LENGTH)
    elif time.monotonic() > job.deadline:
        job.end(TIMEOUT)
