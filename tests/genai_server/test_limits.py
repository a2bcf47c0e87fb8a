"""The limits of the routes are those of the served model, which checks them again, and of its signature in MLflow."""

from __future__ import annotations

from dataclasses import fields

import pytest
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from genai_lifecycle.models.packaging import _signature
from genai_server import limits
from genai_server.http.schemas.ask import QuestionRequest
from genai_server.http.schemas.openai import ChatCompletionRequest, CompletionRequest
from served_model.text_generation.sampling import Sampling

LONG_STOP = "x" * limits.MAX_STOP_CHARACTERS
# The last value that is allowed, and one beyond it.
BOUNDS = {
    "max_new_tokens": [(1, 0), (limits.MAX_NEW_TOKENS, limits.MAX_NEW_TOKENS + 1)],
    "temperature": [(0.0, -0.01), (float(limits.MAX_TEMPERATURE), limits.MAX_TEMPERATURE + 0.01)],
    "top_p": [(0.001, 0.0), (1.0, 1.01)],
    "top_k": [(0, -1), (limits.MAX_TOP_K, limits.MAX_TOP_K + 1)],
    "repetition_penalty": [
        (limits.MIN_REPETITION_PENALTY, limits.MIN_REPETITION_PENALTY - 0.01),
        (float(limits.MAX_REPETITION_PENALTY), limits.MAX_REPETITION_PENALTY + 0.01),
    ],
    "seed": [(0, -2), (limits.SEED_LIMIT - 1, limits.SEED_LIMIT)],  # -1 is the model's default: a new draw each time
    "stop": [
        (["x"] * limits.MAX_STOPS, ["x"] * (limits.MAX_STOPS + 1)),
        ([LONG_STOP], [f"{LONG_STOP}x"]),
        (["x"], [""]),
    ],
    "timeout_s": [(0.001, 0.0), (float(limits.MAX_TIMEOUT_S), limits.MAX_TIMEOUT_S + 0.1)],
}
CASES = [(name, *bound) for name, bounds in BOUNDS.items() for bound in bounds]


def test_every_parameter_of_the_model_is_one_of_the_route_and_of_the_signature():
    names = {parameter.name for parameter in fields(Sampling)}
    assert set(BOUNDS) == names == {spec.name for spec in _signature(96).params.params}
    assert names < set(QuestionRequest.model_fields)


@pytest.mark.parametrize(("name", "allowed", "refused"), CASES)
def test_the_route_and_the_model_allow_and_refuse_the_same(name, allowed, refused):
    QuestionRequest(question="q", **{name: allowed})
    Sampling.from_params({name: allowed})
    with pytest.raises(ValidationError):
        QuestionRequest(question="q", **{name: refused})
    with pytest.raises(MlflowException):
        Sampling.from_params({name: refused})


OPENAI_NAMES = {"max_new_tokens": "max_tokens"}


@pytest.mark.parametrize(
    ("name", "allowed", "refused"), [case for case in CASES if case[0] not in ("temperature", "timeout_s")]
)
def test_openais_routes_share_them_but_for_openais_own_temperature(name, allowed, refused):
    for model in (CompletionRequest, ChatCompletionRequest):
        field = model.model_fields[OPENAI_NAMES.get(name, name)]
        adapter = TypeAdapter(field.rebuild_annotation())
        adapter.validate_python(allowed)
        with pytest.raises(ValidationError):
            adapter.validate_python(refused)


def test_texts_have_one_limit_on_every_route():
    text = "x" * limits.MAX_TEXT_CHARACTERS
    too_long = f"{text}x"
    message = {"role": "user", "content": text}
    QuestionRequest(question=text, history=[text], variables={"a": text})
    CompletionRequest(model="m", prompt=text)
    ChatCompletionRequest(model="m", messages=[message])
    for make in (
        lambda: QuestionRequest(question=too_long),
        lambda: QuestionRequest(question="q", history=[too_long]),
        lambda: QuestionRequest(question="q", variables={"a": too_long}),
        lambda: CompletionRequest(model="m", prompt=too_long),
        lambda: ChatCompletionRequest(model="m", messages=[{**message, "content": too_long}]),
    ):
        with pytest.raises(ValidationError):
            make()
