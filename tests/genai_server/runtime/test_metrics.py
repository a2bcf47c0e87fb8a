"""Metrics: vLLM's endings behind our prefix, honest values, and no label that a caller could fill."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from conftest import StandIn
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from genai_server.answer import Answer
from genai_server.answering.model_output import answer_of, load_of
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.runtime.metrics import PREFIX, EngineLoad, Metrics
from genai_server.settings import ServerSettings

ANSWER = {
    "answer": "my secret text", "prompt_tokens": 20, "completion_tokens": 5, "first_token_s": 0.02, "total_s": 0.1,
    "finish_reason": "length", "queued_s": 0.005,
}  # fmt: skip

# What a dashboard for vLLM asks for, without the prefix (shared conventions, section 4).
VLLM = {
    "num_requests_running", "num_requests_waiting", "prompt_tokens_total", "generation_tokens_total",
    "request_success_total", "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
    "request_queue_time_seconds_bucket", "request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket",
    "kv_cache_usage_perc", "e2e_request_latency_seconds_bucket", "request_prompt_tokens_bucket",
    "request_generation_tokens_bucket",
}  # fmt: skip


LOAD = EngineLoad(running=3, waiting=2, restarts=1, cache_usage=0.25)


def samples(text: bytes) -> dict[str, list]:
    """Name to (labels, value) of every sample, the `_created` ones left out."""
    found: dict[str, list] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found: dict[str, list], name: str, **labels: str) -> float:
    (only,) = [value for has, value in found[name] if labels.items() <= has.items()]
    return only


@pytest.fixture
def metrics():
    return Metrics(lambda: "tiny", lambda: LOAD)


def test_the_names_end_like_vllms_and_all_have_our_prefix(metrics):
    metrics.answer(answer_of(ANSWER))
    metrics.request("POST", "/ask", 200, 0.1)
    found = samples(metrics.text())
    assert {PREFIX + ending for ending in VLLM} <= set(found)
    assert all(name.startswith(PREFIX) for name in found)


def test_an_answer_is_counted_as_it_was(metrics):
    for reason in ("length", "length", "stop"):
        metrics.answer(answer_of({**ANSWER, "finish_reason": reason}))
    found = samples(metrics.text())
    assert value(found, "genai_prompt_tokens_total", model_name="tiny") == 60
    assert value(found, "genai_generation_tokens_total") == 15
    assert value(found, "genai_request_success_total", finished_reason="length") == 2
    assert value(found, "genai_request_success_total", finished_reason="stop") == 1
    assert value(found, "genai_time_to_first_token_seconds_sum") == pytest.approx(0.06)
    assert value(found, "genai_inter_token_latency_seconds_sum") == pytest.approx(3 * 0.08 / 4)
    assert value(found, "genai_request_queue_time_seconds_sum") == pytest.approx(3 * 0.005)
    assert value(found, "genai_request_prefill_time_seconds_sum") == pytest.approx(3 * 0.015)
    assert value(found, "genai_request_decode_time_seconds_sum") == pytest.approx(3 * 0.08)
    assert value(found, "genai_e2e_request_latency_seconds_sum") == pytest.approx(0.3)
    assert value(found, "genai_request_prompt_tokens_bucket", le="16.0") == 0
    assert value(found, "genai_request_prompt_tokens_bucket", le="32.0") == 3


@pytest.mark.parametrize(("tokens", "first", "between"), [(0, 0, 0), (1, 1, 0), (2, 1, 1)])
def test_an_answer_of_no_or_one_token_has_no_times_that_were_not_measured(metrics, tokens, first, between):
    metrics.answer(answer_of({**ANSWER, "completion_tokens": tokens}))
    text = metrics.text().decode()
    assert text.count('genai_time_to_first_token_seconds_count{model_name="tiny"} 1.0') == first
    assert text.count('genai_inter_token_latency_seconds_count{model_name="tiny"} 1.0') == between


def test_the_engine_is_read_at_the_scrape(metrics):
    found = samples(metrics.text())
    assert value(found, "genai_num_requests_running", model_name="tiny") == 3
    assert value(found, "genai_num_requests_waiting") == 2
    assert value(found, "genai_kv_cache_usage_perc") == 0.25
    assert value(found, "genai_engine_restarts_total") == 1


def test_a_caller_that_left_is_counted(metrics):
    metrics.cancelled()
    assert value(samples(metrics.text()), "genai_requests_cancelled_total", model_name="tiny") == 1


def test_a_model_that_was_registered_before_these_figures_has_the_others(metrics):
    early = Metrics(lambda: "early", lambda: load_of(SimpleNamespace(running=1, waiting=0, cancelled=0, restarts=0)))
    early.answer(answer_of({name: value for name, value in ANSWER.items() if name != "queued_s"}))
    found = samples(early.text())
    assert "genai_kv_cache_usage_perc" not in found and "genai_request_queue_time_seconds_sum" not in found
    assert value(found, "genai_num_requests_running") == 1
    assert value(found, "genai_request_decode_time_seconds_count") == 1


def test_a_model_that_counts_nothing_has_no_invented_values():
    metrics = Metrics(lambda: "other", lambda: None)
    metrics.answer(Answer("a"))
    assert samples(metrics.text()) == {}


def test_two_apps_do_not_share_their_numbers(metrics):
    metrics.request("POST", "/ask", 200, 0.1)
    assert "genai_http_requests_total" not in samples(Metrics(lambda: "", lambda: None).text())


class Counted(StandIn):
    def load(self):
        return LOAD


def test_requests_by_route_and_status_and_no_text_of_a_caller():
    info = ModelInfo(model="tiny", model_version="7", prompt="")
    load = lambda *_: LoadedModel(Counted(ANSWER), info)  # noqa: E731
    with TestClient(create_app(ServerSettings(), load)) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.01)
        for _ in range(3):
            client.post("/ask", json={"question": "my secret question"}, headers={"X-Request-ID": "my-secret-id"})
        client.post("/ask", json={"my-secret-field": 1})
        client.get("/my-secret-path?my=secret")
        response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(response.content)
    assert value(found, "genai_http_requests_total", method="POST", route="/ask", status="200") == 3
    assert value(found, "genai_http_requests_total", route="/ask", status="422") == 1
    assert value(found, "genai_http_requests_total", route="unmatched", status="404") == 1
    assert value(found, "genai_http_request_duration_seconds_count", route="/ask") == 4
    assert value(found, "genai_generation_tokens_total", model_name="tiny") == 15
    assert "secret" not in response.text
    labels = {name for entries in found.values() for has, _ in entries for name in has}
    assert labels == {"method", "route", "status", "model_name", "finished_reason", "le"}
