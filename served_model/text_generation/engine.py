"""The border between text and computing: token ids and sampling in, a stream of token ids out.

`Engine` is what both engines offer, `Job` is one prompt under way in either. Which engine runs is decided in
`choice.py`. Nothing here knows text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .checkpoint import Limits
from .errors import EngineFailed, bad_input
from .sampling import Sampling

STOP, LENGTH, TIMEOUT, CANCELLED = "stop", "length", "timeout", "cancelled"  # how a job can end
STALLED_AFTER_S = 15.0  # past its deadline, a job that has not ended is given up


@dataclass(frozen=True)
class Ended:
    """How one job ended, and how many seconds after it was handed in."""

    finish_reason: str  # stop | length | timeout | cancelled
    total_s: float


class Job:
    """One prompt in an engine. The engine's thread fills it, the caller's thread or event loop reads it.

    Args:
        notify: called from the engine's thread when the job has ended, and with `each_token` on new tokens too.
            It must be quick and must not raise.
        group: jobs of one call share a group; engines see to it that no group keeps the others waiting.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        notify: Callable[[], None],
        *,
        group: int = 0,
        each_token: bool = False,
    ):
        self.prompt, self.sampling, self.group = list(prompt), sampling, group
        self._notify, self._each_token = notify, each_token
        self.handed_in = time.monotonic()
        self.token_ids: list[int] = []  # the end-of-text token is not among them
        self.ended: Ended | None = None
        self.error: Exception | None = None
        self.queued_s = 0.0  # until the engine began with it
        self.first_token_s = 0.0  # 0 until there is a token
        self.number = 0  # that the engine gave it
        self._cancelled = threading.Event()
        self._on_cancel: Callable[[], None] | None = None

    @property
    def deadline(self) -> float:
        """On the clock of time.monotonic()."""
        return self.handed_in + self.sampling.timeout_s

    @property
    def running_s(self) -> float:
        """Seconds since it was handed in."""
        return time.monotonic() - self.handed_in

    @property
    def is_over(self) -> bool:
        return self.ended is not None or self.error is not None

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop the work after the step under way; the job then ends as `cancelled`, with the tokens so far."""
        if self.mark_cancelled() and self._on_cancel:
            self._on_cancel()

    def mark_cancelled(self) -> bool:
        """Count as cancelled, without a word to the engine; False where it did so already, or is over."""
        if self.is_cancelled or self.is_over:
            return False
        self._cancelled.set()
        return True

    def check_alive(self) -> None:
        """Raises EngineFailed when the engine failed, or when it has not kept the deadline by far."""
        if self.error is not None:
            raise self.error
        if not self.is_over and time.monotonic() > self.deadline + STALLED_AFTER_S:
            raise EngineFailed("The engine has stopped answering; the request may be sent again.")

    # --- the engine's side ---

    def begin(self, ago_s: float = 0.0) -> None:
        """It is in the batch now, or since so many seconds."""
        self.queued_s = max(0.0, self.running_s - ago_s)

    def extend(self, ids: Sequence[int]) -> None:
        if not self.first_token_s:
            self.first_token_s = self.running_s
        self.token_ids += ids
        if self._each_token:
            self._notify()

    def end(self, finish_reason: str) -> None:
        if not self.is_over:
            self.ended = Ended(finish_reason, self.running_s)
            self._notify()

    def fail(self, error: Exception) -> None:
        if not self.is_over:
            self.error = error
            self._notify()

    def when_cancelled(self, act: Callable[[], None]) -> None:
        """The engine's way to hear of a cancellation; called at once when it came first."""
        self._on_cancel = act
        if self.is_cancelled:
            act()


@dataclass(frozen=True)
class Load:
    """What an engine is busy with."""

    running: int = 0  # jobs in the batch
    waiting: int = 0  # jobs that are not in it yet
    cancelled: int = 0  # jobs cancelled since the engine was made, those that a stop string ended among them
    restarts: int = 0  # restarts since the engine was made
    cache_usage: float | None = None  # taken share of the cache of keys and values, 0 to 1; None = there is none


class Engine(Protocol):
    """Token ids in, token ids out. Safe to use from several threads."""

    name: str  # torch | openvino
    limits: Limits

    def submit(self, job: Job) -> None:
        """Take a job; returns at once. Raises MlflowException for ids or lengths that do not fit the model."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel many jobs at once; those that are over are left alone."""

    def log_likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        """Mean natural-log probability per token of each answer after its prompt; at most 0, higher is likelier.

        An answer that does not fit into the window after its prompt is cut at the right.
        """

    def is_healthy(self) -> bool:
        """Whether it can take jobs now."""

    def failure(self) -> str:
        """Why it will take no job any more; empty while it can."""

    def load(self) -> Load:
        """What it is busy with."""

    def describe(self) -> dict[str, Any]:
        """Name, precision, threads and the like, for people."""

    def close(self) -> None:
        """End its thread or process; jobs under way fail. May be called twice."""


def check_ids(ids: Sequence[int], limits: Limits) -> None:
    """Refuse what an engine would not check itself.

    Raises:
        MlflowException: the prompt is empty, leaves no room for an answer, or holds an id outside the vocabulary.
    """
    if not ids:
        raise bad_input("The prompt has no tokens; write some text.")
    if len(ids) > limits.window:
        raise bad_input(f"The prompt has {len(ids)} tokens; the model can see {limits.window}.")
    if min(ids) < 0 or max(ids) >= limits.vocabulary:
        raise bad_input(f"A token id is outside the vocabulary (0 to {limits.vocabulary - 1}).")


def rows_to_score(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], limits: Limits
) -> list[list[int]]:
    """Prompt and answer of each row, cut at the right where they do not fit into the window.

    Raises:
        MlflowException: an id is outside the vocabulary, or a row has no answer token left to score.
    """
    rows = [[*prompt, *answer][: limits.window] for prompt, answer in zip(prompts, answers, strict=True)]
    for row, prompt in zip(rows, prompts, strict=True):
        check_ids(row, limits)
        if not prompt or len(row) <= len(prompt):
            raise bad_input("There is nothing to score: the prompt or the answer has no tokens, or fills the window.")
    return rows


def most_new_tokens(job: Job, limits: Limits) -> int:
    """No more than the window has left after the prompt."""
    return min(job.sampling.max_new_tokens, limits.window - len(job.prompt))
