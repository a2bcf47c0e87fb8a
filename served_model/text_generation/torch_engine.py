"""The torch engine: transformers' own `generate` on padded batches, for any causal LM that transformers loads.

The reference that the OpenVINO engine is compared with, and its stand-in. One thread runs batch after batch; a job
that comes meanwhile joins the next one.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .checkpoint import Limits, read_limits
from .engine import CANCELLED, LENGTH, STOP, TIMEOUT, Job, Load, check_ids, most_new_tokens, rows_to_score
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
        rows = rows_to_score(prompts, answers, self.limits)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores: dict[int, float] = {}
        for start in range(0, len(order), SCORED_BATCH):
            chunk = order[start : start + SCORED_BATCH]
            values = self._batches.score([rows[i] for i in chunk], [len(prompts[i]) for i in chunk])
            scores |= dict(zip(chunk, values, strict=True))
        return [scores[i] for i in range(len(rows))]

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.cancel()

    def is_healthy(self) -> bool:
        return self._batches.is_running()

    def failure(self) -> str:
        return ""  # a batch that fails is its callers' matter, and the thread goes on

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
        self._is_closed, self._owner = False, os.getpid()
        self._last_group = 0
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._cancelled = 0
        self._computing = threading.Lock()  # generation and scoring take turns

    def add(self, job: Job) -> None:
        if os.getpid() != self._owner:
            raise EngineFailed("The model was loaded before this process was forked; load it again here.")
        if self._is_closed:
            raise EngineFailed("The model was closed.")
        job.when_cancelled(self._count_cancelled)
        self._queue.put(job)

    def is_running(self) -> bool:
        return not self._is_closed and os.getpid() == self._owner

    def close(self) -> None:
        """The batch under way ends after its step: all its jobs are over."""
        self._is_closed = True
        self._queue.put(_CLOSE)
        for job in self._running:
            job.fail(EngineFailed("The model was closed."))

    def load(self) -> Load:
        return Load(len(self._running), len(self._waiting) + self._queue.qsize(), self._cancelled)

    def run(self) -> None:
        """Batch after batch until the end; an exception fails its batch, not the engine."""
        while self._gather():
            batch = self._running = self._next_batch()
            for job in batch:
                job.begin()
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
        """The first job in turn and those that fit to it.

        Rows that are done go on with padding until the batch is, so the longest prompt and the longest answer
        must fit into the window together.
        """
        first, *others = _in_turn(self._waiting, self._last_group)
        longest, most = len(first.prompt), most_new_tokens(first, self.limits)
        batch = [first]
        for job in others:
            new_longest = max(longest, len(job.prompt))
            new_most = max(most, most_new_tokens(job, self.limits))
            fits = new_longest + new_most <= self.limits.window
            if len(batch) < MAX_BATCH and fits and _kind(job) == _kind(first):
                batch.append(job)
                longest, most = new_longest, new_most
        self._last_group = first.group
        chosen = set(map(id, batch))
        self._waiting = [job for job in self._waiting if id(job) not in chosen]
        return batch

    # --- one batch ---

    def _generate(self, batch: list[Job]) -> None:
        import torch

        with torch.inference_mode():
            input_ids, mask = self._padded([job.prompt for job in batch], left=True)
            self.model.generate(
                input_ids,
                attention_mask=mask,
                generation_config=self._generation_config(batch),
                logits_processor=[*self._repetition_penalty(batch, mask), *_sampling(batch)],
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
        """Always the likeliest token: what is drawn is decided by `_sampling`, before."""
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=max(most_new_tokens(job, self.limits) for job in batch),
            eos_token_id=sorted(self.limits.eos_ids) or None,
            pad_token_id=self.limits.eos_id or 0,
            do_sample=False,
        )

    @staticmethod
    def _repetition_penalty(batch: list[Job], mask: Any) -> list[Any]:
        """transformers' own, told where the padding ends: else a short row would be penalised for padding."""
        from transformers import RepetitionPenaltyLogitsProcessor

        penalty = batch[0].sampling.repetition_penalty
        return [] if penalty == 1 else [RepetitionPenaltyLogitsProcessor(float(penalty), (1 - mask).sum(1))]

    def _count_cancelled(self) -> None:
        self._cancelled += 1


def _in_turn(waiting: Sequence[Job], last_group: int) -> list[Job]:
    """The oldest job of each call, then the second oldest, and so on; the call that was first last time comes last."""
    by_group: dict[int, list[Job]] = {}
    for job in waiting:
        by_group.setdefault(job.group or -id(job), []).append(job)
    if last_group in by_group:
        by_group[last_group] = by_group.pop(last_group)
    return [job for rank in zip_longest(*by_group.values()) for job in rank if job is not None]


def _kind(job: Job) -> tuple:
    """Jobs of one kind can share a batch."""
    sampling = job.sampling
    return (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty)


def _sampling(batch: list[Job]) -> list[Any]:
    """Transformers' own limits, then a draw for each row; nothing for greedy answers."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    sampling = batch[0].sampling
    if sampling.is_greedy:
        return []
    limits = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        limits.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        limits.append(TopPLogitsWarper(sampling.top_p))
    return [*limits, _gumbel_noise(batch)]


def _gumbel_noise(batch: list[Job]) -> Any:
    """Noise after which the largest score is a draw from the softmax (the Gumbel-max trick; Gumbel 1954).

    Each row has a generator of its own, so a seeded draw is the same alone and in a crowd, and nobody else's random
    numbers are touched.
    """
    import torch
    from transformers import LogitsProcessor

    def generator_of(job: Job) -> Any:
        generator = torch.Generator()
        generator.manual_seed(job.sampling.seed) if job.sampling.seed >= 0 else generator.seed()
        return generator

    generators = [generator_of(job) for job in batch]

    class GumbelNoise(LogitsProcessor):
        def __call__(self, input_ids, scores):
            uniform = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in generators])
            # 0 has no logarithm
            return scores - torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float32).tiny)))

    return GumbelNoise()


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
