"""Types of fields that several schemas have, with the limits of `limits.py`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from genai_server import limits

# Without tab and line breaks, which people write. PostgreSQL refuses a NUL, and a log a line break.
_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f"


class _Printable:
    """Checks the text, and says so in the schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^[^{_CONTROL}]*$"}

    @staticmethod
    def _check(text: str) -> str:
        if re.search(f"[{_CONTROL}]", text):
            raise PydanticCustomError("control_character", "has a control character in it, such as NUL; leave it out")
        return text


def _integer(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


# Both stand behind the Field that they belong to.
printable = _Printable()
whole_number = BeforeValidator(_integer)  # 5.0 is one too in JSON, which a strict `int` would refuse

Text = Annotated[str, Field(max_length=limits.MAX_TEXT_CHARACTERS)]
NewTokens = Annotated[int | None, Field(ge=1, le=limits.MAX_NEW_TOKENS), whole_number]
TopP = Annotated[float | None, Field(gt=0, le=1)]
TopK = Annotated[int | None, Field(ge=0, le=limits.MAX_TOP_K), whole_number]
RepetitionPenalty = Annotated[float | None, Field(ge=limits.MIN_REPETITION_PENALTY, le=limits.MAX_REPETITION_PENALTY)]
Seed = Annotated[int | None, Field(ge=0, lt=limits.SEED_LIMIT), whole_number]
StopText = Annotated[str, Field(min_length=1, max_length=limits.MAX_STOP_CHARACTERS)]
