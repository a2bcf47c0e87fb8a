"""OpenAI's requests for completions, as far as a causal language model can follow them.

Fields that would change the answer and cannot be followed are refused by name; other ones are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from genai_server.http.whole import whole

Text = Annotated[str, Field(max_length=20_000)]
Tokens = Annotated[int | None, Field(ge=1, le=1024), whole]


def only(*allowed: Any) -> Any:
    """A field that is not followed: it may say what is done anyway (`allowed`, or null), and nothing else."""

    def checked(value: Any) -> Any:
        if value is not None and not any(value == same and type(value) in _kinds(same) for same in allowed):
            raise PydanticCustomError("unsupported", "not supported here; leave it out")
        return value

    schema = {"enum": [*allowed, None], "description": "Not followed: may say what is done anyway."}
    return Annotated[Any, AfterValidator(checked), WithJsonSchema(schema)]


def _kinds(value: Any) -> tuple[type, ...]:
    """0 and 0.0 are one number, but false is none."""
    return (int, float) if type(value) is int else (type(value),)


# One string or several; a list ever after. A union would put its branch's name into the error.
def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopTexts = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=8)]
Stop = Annotated[
    StopTexts | None,
    BeforeValidator(
        lambda value: None if value == "" else _listed(value), json_schema_input_type=str | StopTexts | None
    ),
]
PromptText = Annotated[str, Field(min_length=1, max_length=20_000)]
PromptTexts = Annotated[list[PromptText], Field(min_length=1, max_length=64)]
Prompts = Annotated[PromptTexts, BeforeValidator(_listed, json_schema_input_type=PromptText | PromptTexts)]


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk with the token counts."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class _Completion(BaseModel):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    model: Annotated[str, Field(min_length=1, max_length=500)]
    max_tokens: Tokens = None
    temperature: Annotated[float | None, Field(ge=0, le=2, description="0, the default: the likeliest token.")] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63), whole] = None
    stop: Stop = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # not OpenAI's, but usual among servers of open models
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000), whole] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.1, le=10)] = None
    # refused
    n: only(1) = None
    frequency_penalty: only(0) = None
    presence_penalty: only(0) = None
    logit_bias: only({}) = None

    def params(self) -> dict[str, Any]:
        """In the words of the served model."""
        named = {
            "max_new_tokens": self.longest, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed,
            "top_k": self.top_k, "repetition_penalty": self.repetition_penalty, "stop": self.stop,
        }  # fmt: skip
        return {name: value for name, value in named.items() if value is not None}

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

    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    max_completion_tokens: Tokens = None
    # refused
    tools: only([]) = None
    functions: only([]) = None
    tool_choice: only("none", "auto") = None
    function_call: only("none", "auto") = None
    response_format: only({"type": "text"}) = None
    modalities: only(["text"]) = None
    audio: only() = None
    web_search_options: only() = None
    logprobs: only(False) = None
    top_logprobs: only(0) = None

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
    max_tokens: Tokens = 16
    # refused
    echo: only(False) = None
    best_of: only(1) = None
    suffix: only("") = None
    logprobs: only() = None
