"""Requests and responses of our own routes. Swagger and the checks of every request come from here; no logic."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from genai_server import limits, model_info
from genai_server.answer import AnswerVersions, ServedAnswer
from genai_server.http.schemas.fields import (
    NewTokens,
    RepetitionPenalty,
    Seed,
    StopText,
    Text,
    TopK,
    TopP,
    printable,
    whole_number,
)  # fmt: skip
from genai_server.http.schemas.prompts import PromptAlias, PromptName, Version

WrittenText = Annotated[Text, Field(min_length=1)]
LARGEST = 2**53  # what JSON's readers and MLflow hold exactly
Integer = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class QuestionRequest(BaseModel):
    """One question; every parameter may be left out."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={
            "examples": [{"question": "What is MLflow?", "max_new_tokens": 96}],
            "anyOf": [  # checked where the route reads it
                {"required": ["question"], "properties": {"question": {"type": "string"}}},
                {"required": ["variables"], "properties": {"variables": {"minProperties": 1}}},
            ],
        },
    )  # fmt: skip

    question: Annotated[
        WrittenText | None, Field(description="What to answer; may be left out where variables are given.")
    ] = None
    history: Annotated[
        list[WrittenText],
        Field(max_length=limits.MAX_HISTORY, description="Earlier turns: question, answer, question, answer, ..."),
    ] = []
    max_new_tokens: Annotated[NewTokens, Field(description="Longest answer in tokens.")] = None
    temperature: Annotated[
        float | None, Field(ge=0, le=limits.MAX_TEMPERATURE, description="0 = always the likeliest token.")
    ] = None
    top_p: Annotated[TopP, Field(description="1 = all tokens.")] = None
    top_k: Annotated[TopK, Field(description="0 = all tokens.")] = None
    repetition_penalty: Annotated[RepetitionPenalty, Field(description="1 = none.")] = None
    seed: Annotated[Seed, Field(description="Makes sampling repeatable.")] = None
    stop: Annotated[
        list[StopText] | None, Field(max_length=limits.MAX_STOPS, description="The answer ends before these.")
    ] = None
    timeout_s: Annotated[
        float | None, Field(gt=0, le=limits.MAX_TIMEOUT_S, description="Then the answer so far is returned.")
    ] = None
    prompt_name: Annotated[
        PromptName | None, Field(description="A prompt of MLflow's registry, in place of the one in production.")
    ] = None
    prompt_version: Annotated[Version | None, Field(description="Its version; or"), whole_number] = None
    prompt_alias: Annotated[PromptAlias | None, Field(description="its alias; by default production.")] = None
    variables: Annotated[
        dict[PromptName, Text],
        Field(
            max_length=limits.MAX_VARIABLES,
            description="What the prompt's variables stand for; {{question}} is the question.",
        ),
    ] = {}


class AnswerResponse(BaseModel):
    """The answer with what is known about it."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "answer": "MLflow is an open-source platform for the machine learning lifecycle.",
                    "finish_reason": "stop", "prompt_tokens": 10, "completion_tokens": 14, "first_token_s": 0.003,
                    "total_s": 0.02, "queued_s": 0.001, "warnings": [], "model": "langchain-e2e-model",
                    "model_version": "1", "prompt": "qa-simple/1", "prompt_source": "live", "request_id": "5f2b",
                }
            ]
        },
    )  # fmt: skip

    answer: str
    finish_reason: Annotated[str, Field(description="stop, length, timeout or cancelled")] = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    queued_s: Annotated[float | None, Field(description="Of total_s: before the engine began.")] = None
    warnings: list[str] = []
    model: str
    model_version: str | None
    prompt: str
    prompt_source: Annotated[
        str, Field(description="live (in production now), disk (its last good copy), model (frozen in it), or named")
    ] = "model"
    request_id: Annotated[str, Field(description="Name it in /feedback.")]

    @classmethod
    def of(cls, served: ServedAnswer) -> Self:
        answer, versions, usage = served.answer, served.versions, served.answer.usage
        return cls(
            answer=answer.text, finish_reason=answer.finish_reason, warnings=list(answer.warnings),
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            first_token_s=usage.first_token_s if usage else None,
            total_s=usage.total_s if usage else None,
            queued_s=usage.queued_s if usage else None,
            model=versions.model, model_version=versions.model_version,
            prompt=versions.prompt, prompt_source=versions.prompt_source, request_id=served.request_id,
        )  # fmt: skip


class BatchQuestionRequest(BaseModel):
    """Many questions, each with its own parameters."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"questions": [{"question": "What is MLflow?"}, {"question": "What is overfitting?"}]}]
        },
    )

    questions: Annotated[list[QuestionRequest], Field(min_length=1, max_length=limits.MAX_BATCH)]


class ItemError(BaseModel):
    """Why one item of a batch has no answer."""

    status: int
    code: str
    detail: str


class BatchItem(BaseModel):
    """The answer or the error of one question."""

    index: int
    answer: AnswerResponse | None = None
    error: ItemError | None = None


class BatchAnswerResponse(BaseModel):
    """One item for each question, in order."""

    answers: list[BatchItem]
    failed: int


def _score(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One sentence in place of one for each kind of value."""
    try:
        return validate(value)
    except ValidationError:
        allowed = "true, false, a number up to 2^53, or a text of up to 1,000 characters without control characters"
        raise PydanticCustomError("score", f"has to be {allowed}") from None


class FeedbackRequest(BaseModel):
    """A score or a comment on an answer."""

    model_config = ConfigDict(
        extra="forbid", strict=True,
        json_schema_extra={"examples": [{"request_id": "5f2b", "name": "helpful", "value": True}]},
    )  # fmt: skip

    request_id: Annotated[str, Field(pattern=r"^[!-~]{1,128}$", description="X-Request-ID of the answer.")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$", description="What is judged.")] = "score"
    value: Annotated[
        bool | Integer | Number | Annotated[str, Field(max_length=1_000), printable] | None,
        Field(description="The score; a text up to 1,000 characters."), WrapValidator(_score),
    ] = None  # fmt: skip
    comment: Annotated[str, Field(max_length=5_000), printable] | None = None
    source: Annotated[str, Field(min_length=1, max_length=128, description="Who says so."), printable] = "anonymous"


class FeedbackResponse(BaseModel):
    """Where the feedback is by now. Either way it is in the ledger, and gets onto the answer's trace later."""

    kept: Literal["trace", "ledger"]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default")  # null, which may not be sent


class ReloadRequest(BaseModel):
    """Which version of the served model to load, by its number or an alias; with neither, the address the server was
    started with, looked up anew."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "3"}], "not": {"required": ["version", "alias"]}},
    )  # fmt: skip

    # Either may be left out, but null may not be sent.
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$", json_schema_extra=_without_default)] = None  # type: ignore[assignment]
    alias: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$", json_schema_extra=_without_default)] = None  # type: ignore[assignment]

    @model_validator(mode="after")
    def _name_one(self) -> Self:
        if self.version is not None and self.alias is not None:
            raise ValueError("name a version or an alias, not both")
        return self


class WebhookResponse(BaseModel):
    """What the event led to."""

    status: Literal["loading", "ignored"]
    detail: str


class ModelInfo(BaseModel):
    """Who answers."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    model_uri: str
    model_version: str | None
    model_alias: str | None
    prompt: Annotated[str, Field(description="The one frozen in the model.")]
    prompt_in_use: Annotated[str | None, Field(description="The one that answers are made with now.")] = None
    prompt_source: Annotated[str | None, Field(description="live, disk or model")] = None
    turn_format: str | None
    run_id: str | None
    base_model: str | None
    weights_sha256: str | None
    engine: Annotated[dict[str, str | int | None], Field(description="What answers, and why it is this one.")]

    @classmethod
    def of(cls, info: model_info.ModelInfo, in_use: AnswerVersions | None = None) -> Self:
        """`in_use`: of an answer that is made now."""
        prompts: dict[str, Any] = {}
        if in_use:
            prompts = {"prompt_in_use": in_use.prompt, "prompt_source": in_use.prompt_source}
        return cls(**asdict(info), **prompts)


class Health(BaseModel):
    """`ready` after the golden prompts were answered as recorded."""

    status: Annotated[str, Field(description="loading, ready, failed or stopping")]
    detail: str = ""


class FieldError(BaseModel):
    """What is wrong with one field."""

    loc: list[str]
    msg: str
    type: str


class Problem(BaseModel):
    """An error, in the form of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FieldError] = []
