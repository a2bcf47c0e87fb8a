"""A number of clients that each ask, wait for the answer and ask again; what they saw, and what a health probe saw.

Knows HTTP, no peer. One event loop carries all clients, so that measuring costs little of the two cores.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PROBE_EVERY_S = 0.05
ANSWER_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Api:
    """How a peer is asked."""

    url: str
    body: Callable[[str], Mapping[str, Any]]  # from a question to the request's JSON
    tokens: Callable[[Any], int]  # from the answer's JSON to the number of its tokens
    health_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream_url: str | None = None  # where server-sent events come from; None: it has no stream
    stream_body: Callable[[str], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Seen:
    """What one load saw; all in seconds but the tokens and counts."""

    clients: int
    wall_s: float
    answer_s: Sequence[float]  # of each answer, in ascending order
    tokens: int
    failures: Mapping[str, int]  # what went wrong -> how often
    health_s: Sequence[float]  # of each probe, in ascending order

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_s

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def percentile(self, share: float, of: Sequence[float] | None = None) -> float:
        """NaN where there is nothing to take it from."""
        values = self.answer_s if of is None else of
        return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def load(api: Api, questions: Sequence[str], clients: int, requests: int, limit_s: float) -> Seen:
    """Ask `requests` times with `clients` at once; after `limit_s` no new question is asked."""
    answers: list[tuple[float, int]] = []
    failures: dict[str, int] = {}
    health: list[float] = []
    numbers = itertools.islice(itertools.cycle(questions), requests)
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=dict(api.headers)) as session:
        probing = asyncio.create_task(_probe(session, api.health_url, health)) if api.health_url else None
        started = time.monotonic()

        async def client() -> None:
            for question in numbers:
                if time.monotonic() - started > limit_s:
                    return
                await _ask(session, api, question, answers, failures)

        await asyncio.gather(*(client() for _ in range(clients)))
        wall_s = time.monotonic() - started
        if probing:
            probing.cancel()
    seconds = sorted(taken for taken, _ in answers)
    return Seen(clients, wall_s, seconds, sum(tokens for _, tokens in answers), failures, sorted(health))


async def _ask(session, api: Api, question: str, answers: list, failures: dict[str, int]) -> None:
    began = time.monotonic()
    try:
        async with session.post(api.url, json=api.body(question)) as response:
            if response.status == 200:
                tokens = api.tokens(await response.json(content_type=None))
                answers.append((time.monotonic() - began, tokens))
                return
            what = str(response.status)
    except (aiohttp.ClientError, TimeoutError) as exc:
        what = type(exc).__name__
    failures[what] = failures.get(what, 0) + 1


async def _probe(session, url: str, health: list[float]) -> None:
    while True:
        began = time.monotonic()
        async with session.get(url) as response:
            await response.read()
        health.append(time.monotonic() - began)
        await asyncio.sleep(PROBE_EVERY_S)


async def first_tokens(api: Api, questions: Sequence[str], clients: int, requests: int) -> list[float]:
    """Seconds to the first event of each server-sent stream, in ascending order; empty where there is no stream."""
    if api.stream_url is None:
        return []
    taken: list[float] = []
    numbers = itertools.islice(itertools.cycle(questions), requests)

    async def client(session) -> None:
        for question in numbers:
            began, seen = time.monotonic(), False
            async with session.post(api.stream_url, json=api.stream_body(question)) as response:
                response.raise_for_status()
                async for line in response.content:
                    if not seen and line.startswith(b"data:"):
                        taken.append(time.monotonic() - began)
                        seen = True

    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=dict(api.headers)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return sorted(taken)
