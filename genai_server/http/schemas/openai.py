"""OpenAI's requests for completions, as far as a causal language model can follow them.

Fields that would change the answer and cannot be followed are refused by name; other ones are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
)  # fmt: skip
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from genai_server import limits
from genai_server.http.schemas.fields import NewTokens, RepetitionPenalty, Seed, StopText, Text, TopK, TopP


@dataclass(frozen=True, eq=False)  # typing would take Only((0,)) and Only((False,)) for one annotation
class Only:
    """Of a field that is not followed: it may say what is done anyway (`allowed`, or null), and nothing else."""

    allowed: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*self.allowed, None], "description": "Not followed: may say what is done anyway."}

    def _check(self, value: Any) -> Any:
        if value is not None and not any(value == same and type(value) in _kinds(same) for same in self.allowed):
            raise PydanticCustomError("unsupported", "not supported here; leave it out")
        return value


def only(*allowed: Any) -> Only:
    return Only(allowed)


def _kinds(value: Any) -> tuple[type, ...]:
    """0 and 0.0 are one number, but false is none."""
    return (int, float) if type(value) is int else (type(value),)


# One string or several; a list ever after. A union would put its branch's name into the error.
def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopTexts = Annotated[list[StopText], Field(max_length=limits.MAX_STOPS)]
Stop = Annotated[
    StopTexts | None,
    BeforeValidator(
        lambda value: None if value == "" else _listed(value), json_schema_input_type=str | StopTexts | None
    ),
]
PromptText = Annotated[Text, Field(min_length=1)]
PromptTexts = Annotated[list[PromptText], Field(min_length=1, max_length=limits.MAX_TEXTS)]
Prompts = Annotated[PromptTexts, BeforeValidator(_listed, json_schema_input_type=PromptText | PromptTexts)]


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk with the token counts."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class _Completion(BaseModel):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=500)]
    max_tokens: NewTokens = None
    temperature: Annotated[float | None, Field(ge=0, le=2, description="0, the default: the likeliest token.")] = None
    top_p: TopP = None
    seed: Seed = None
    stop: Stop = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # not OpenAI's, but usual among servers of open models
    top_k: TopK = None
    repetition_penalty: RepetitionPenalty = None
    # refused
    n: Annotated[Any, only(1)] = None
    frequency_penalty: Annotated[Any, only(0)] = None
    presence_penalty: Annotated[Any, only(0)] = None
    logit_bias: Annotated[Any, only({})] = None

    def params(self) -> dict[str, Any]:
        """In the words of the served model."""
        params = {
            "max_new_tokens": self.longest, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed,
            "top_k": self.top_k, "repetition_penalty": self.repetition_penalty, "stop": self.stop,
        }  # fmt: skip
        return {name: value for name, value in params.items() if value is not None}

    @property
    def longest(self) -> int | None:
        return self.max_tokens


# --- conversations --------------------------------------------------------------------------------


class TextPart(BaseModel):
    """One part of a message's content."""

    type: Literal["text"]
    text: Text


def _joined(content: Any) -> Any:
    """Text parts as one text."""
    if not isinstance(content, list):
        return content
    if not content or not all(_is_text_part(part) for part in content):
        raise PydanticCustomError("text_only", 'only text is read: a string, or parts with type "text"')
    return "\n".join(part["text"] for part in content)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


Parts = Annotated[list[TextPart], Field(min_length=1)]
Content = Annotated[Text, BeforeValidator(_joined, json_schema_input_type=Text | Parts)]


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class ChatCompletionRequest(_Completion):
    """A conversation; the last message is the question."""

    model_config = ConfigDict(
        extra="ignore", strict=True, protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {"model": "langchain-e2e-model", "messages": [{"role": "user", "content": "What is MLflow?"}]}
            ]
        },
    )  # fmt: skip

    messages: Annotated[list[Message], Field(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_completion_tokens: NewTokens = None
    # refused
    tools: Annotated[Any, only([])] = None
    functions: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None
    logprobs: Annotated[Any, only(False)] = None
    top_logprobs: Annotated[Any, only(0)] = None

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role != "user":
            raise PydanticCustomError("no_question", "the last message must be the user's")
        return messages

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


# --- texts ----------------------------------------------------------------------------------------


class CompletionRequest(_Completion):
    """A text that is continued as it stands, without the frozen prompt."""

    model_config = ConfigDict(
        extra="ignore", strict=True, protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {"model": "langchain-e2e-model", "prompt": "Question: What is MLflow?\nAnswer:", "max_tokens": 64}
            ]
        },
    )  # fmt: skip

    prompt: Prompts
    max_tokens: NewTokens = 16
    # refused
    echo: Annotated[Any, only(False)] = None
    best_of: Annotated[Any, only(1)] = None
    suffix: Annotated[Any, only("")] = None
    logprobs: Annotated[Any, only()] = None
