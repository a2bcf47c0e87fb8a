"""Requests and responses. Swagger and the checks of every request come from here; no logic."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class QuestionRequest(BaseModel):
    """One question; every parameter may be left out."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"question": "What is MLflow?", "max_new_tokens": 96}]}
    )

    question: Annotated[str, Field(min_length=1, max_length=20_000, description="What to answer.")]
    history: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=20_000)]],
        Field(max_length=100, description="Earlier turns: question, answer, question, answer, ..."),
    ] = []
    max_new_tokens: Annotated[int | None, Field(ge=1, le=1024, description="Longest answer in tokens.")] = None
    temperature: Annotated[float | None, Field(ge=0, le=5, description="0 = always the likeliest token.")] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, description="0 = all tokens.")] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.1, le=10)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="Makes sampling repeatable.")] = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        Field(max_length=8, description="The answer ends before these."),
    ] = None
    timeout_s: Annotated[float | None, Field(gt=0, le=3600, description="Then the answer so far is returned.")] = None


class AnswerResponse(BaseModel):
    """The answer with what is known about it."""

    answer: str
    finish_reason: Annotated[str, Field(description="stop, length or timeout")]
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float
    warnings: list[str]
    model: str
    model_version: str | None
    prompt: str


class ModelInfo(BaseModel):
    """Who answers."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    model_version: str | None
    prompt: str
    run_id: str | None
    base_model: str | None
    weights_sha256: str | None
    engine: Annotated[dict[str, str | int | None], Field(description="What answers, and why it is this one.")]


class Health(BaseModel):
    """`ready` after the golden prompts were answered as recorded."""

    status: Annotated[str, Field(description="loading, ready or failed")]
    detail: str = ""


class Problem(BaseModel):
    """An error, in the form of RFC 9457."""

    title: str
    status: int
    detail: str
