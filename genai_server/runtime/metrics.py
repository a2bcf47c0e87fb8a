"""Prometheus metrics: the endings of vLLM's names behind our prefix, so that its dashboards work after one replace.

Never a text, a key or a caller as a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from genai_server.answer import Answer, Usage

PREFIX = "genai_"
_SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine is busy with now."""

    running: int  # answers in the batch
    waiting: int  # questions
    restarts: int
    cache_usage: float | None = None  # 0 to 1; None where the engine has no such cache


class Metrics:
    """The metrics of one app, in a registry of its own.

    Args:
        model_name: the label of all metrics of the model; asked at every scrape.
        engine_load: None while there is no model, or one that nobody counts for.
    """

    def __init__(self, model_name: Callable[[], str], engine_load: Callable[[], EngineLoad | None]):
        self._registry, self._model_name = CollectorRegistry(), model_name
        self.requests = 0  # answered since the start
        self._registry.register(_Collector(lambda: _engine_families(model_name(), engine_load())))
        self._requests = self._counter("http_requests", "Requests by route and status.", "method", "route", "status")
        self._seconds = self._histogram("http_request_duration_seconds", "Until the last byte.", _SHORT_S, "route")
        model = "model_name"
        self._feedback = self._counter("feedback", "Feedback by where it was when answered.", "kept")
        self._write_failures = self._counter("storage_failures", "Writes that the disk did not take.", "what")
        self._cancelled = self._counter("requests_cancelled", "Answers whose caller left before the end.", model)
        self._prompt = self._counter("prompt_tokens", "Tokens of the prompts.", model)
        self._generated = self._counter("generation_tokens", "Tokens of the answers.", model)
        self._success = self._counter("request_success", "Answers by how they ended.", model, "finished_reason")
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.", _SHORT_S, model)
        self._between = self._histogram("inter_token_latency_seconds", "Mean time a token.", _TOKEN_S, model)
        self._whole = self._histogram("e2e_request_latency_seconds", "Until the last token.", _SHORT_S, model)
        self._queued = self._histogram("request_queue_time_seconds", "Before the engine began.", _SHORT_S, model)
        self._prefill = self._histogram("request_prefill_time_seconds", "Then to the first token.", _SHORT_S, model)
        self._decode = self._histogram("request_decode_time_seconds", "Then to the last token.", _SHORT_S, model)
        self._prompt_size = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS, model)
        self._answer_size = self._histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS, model)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One HTTP request that has been answered."""
        self.requests += 1
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answer(self, answer: Answer) -> None:
        """One answer of the model; another PyFunc's has no figures."""
        usage = answer.usage
        if usage is None:
            return
        name = self._model_name()
        self._prompt.labels(name).inc(usage.prompt_tokens)
        self._generated.labels(name).inc(usage.completion_tokens)
        self._success.labels(name, answer.finish_reason).inc()
        self._whole.labels(name).observe(usage.total_s)
        self._prompt_size.labels(name).observe(usage.prompt_tokens)
        self._answer_size.labels(name).observe(usage.completion_tokens)
        if usage.completion_tokens:
            self._phases(name, usage)
        if usage.completion_tokens > 1:
            self._between.labels(name).observe((usage.total_s - usage.first_token_s) / (usage.completion_tokens - 1))

    def _phases(self, name: str, usage: Usage) -> None:
        """Queue, prefill and decode."""
        self._first.labels(name).observe(usage.first_token_s)
        self._decode.labels(name).observe(max(0.0, usage.total_s - usage.first_token_s))
        if usage.queued_s is not None:
            self._queued.labels(name).observe(usage.queued_s)
            self._prefill.labels(name).observe(max(0.0, usage.first_token_s - usage.queued_s))

    def feedback(self, kept: str) -> None:
        """trace, ledger, or nowhere."""
        self._feedback.labels(kept).inc()

    def write_failed(self, what: str) -> None:
        """A file of the server's own that could not be written: traces, feedback or prompt."""
        self._write_failures.labels(what).inc()

    def cancelled(self) -> None:
        """A caller that closed the connection before its answer was whole."""
        self._cancelled.labels(self._model_name()).inc()

    def traces(self, waiting: Callable[[], int], dropped: Callable[[], int]) -> None:
        """Where to read, at every scrape, how many traces MLflow does not have yet, and never will have."""
        self._registry.register(_Collector(lambda: _trace_families(waiting(), dropped())))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}{name}", what, labels, buckets=buckets, registry=self._registry)


class _Collector(Collector):
    """Families that are made at the moment of the scrape."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]):
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _engine_families(model_name: str, load: EngineLoad | None) -> Iterator[Metric]:
    if load is None:
        return
    for kind, name, description, value in (
        (GaugeMetricFamily, "num_requests_running", "Answers in the batch.", load.running),
        (GaugeMetricFamily, "num_requests_waiting", "Questions that wait for the batch.", load.waiting),
        (GaugeMetricFamily, "kv_cache_usage_perc", "Taken share of the cache, 0 to 1.", load.cache_usage),
        (CounterMetricFamily, "engine_restarts", "Restarts of the engine.", load.restarts),
    ):
        if value is not None:
            family = kind(f"{PREFIX}{name}", description, labels=["model_name"])
            family.add_metric([model_name], value)
            yield family


def _trace_families(waiting: int, dropped: int) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"{PREFIX}traces_waiting", "Traces that wait for MLflow.", waiting)
    description = "Traces that found no room, or that MLflow cannot take."
    yield CounterMetricFamily(f"{PREFIX}traces_dropped", description, dropped)
