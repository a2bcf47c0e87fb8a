"""Text without control characters, for what is stored as it came: PostgreSQL refuses a NUL, and a log a line break."""

from __future__ import annotations

import re
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# Without tab and line breaks, which people write.
PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _checked(text: str) -> str:
    if _CONTROL.search(text):
        raise PydanticCustomError("control_character", "has a control character in it, such as NUL; leave it out")
    return text


class _Plain:
    """Checks the text, and says so in the schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(_checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": PATTERN}


plain = _Plain()  # stands behind the Field of a str
