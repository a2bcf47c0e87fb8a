"""`CaseAnswer`: the answer to one case, from the model through the answer cache to scores, checks and traces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CaseAnswer:
    """An answer with all that is known of it. Times in nanoseconds since the epoch are those of the batch it was in."""

    text: str
    reference: str = ""  # of the case; empty: none
    finish_reason: str = "stop"  # stop | length | timeout | cancelled
    completion_tokens: int = 0
    latency_ms: float = 0.0  # from being handed in, with the others of its batch, to the last token
    log_likelihood: float | None = None  # mean log-probability per token of the reference (nats), at most 0
    prompt_tokens: int = 0
    prompt: str = ""  # as the model got it
    start_ns: int = 0
    rendered_ns: int = 0
    generated_ns: int = 0
    end_ns: int = 0
