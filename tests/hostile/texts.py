"""Texts that break programs, in every text field of every route; the fields come from the server's OpenAPI document."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_from_bytes

TEXTS = {
    "lone surrogates": "a \ud83d \udc00 b",
    "surrogates the wrong way round": "\udc00\ud800",
    "zero": "a\x00b",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    "escape sequences": "\x1b[2J\x1b]0;a\x07",
    "line breaks of HTTP": "a\r\nX-Injected: b\r\n\r\n",
    "no characters": "\ufffe\uffff\ufeff\u2028",
    "right to left": "\u202eabc\u2066",
    "combining": "a" + "\u0301" * 500,
    "templates": "{{question}} {question} {% x %} ${x} %s %n",
}
RAW = b'\xff\xfe \xc0\x80 \xed\xa0\x80 "'  # no UTF-8 at all
JSON, CSV = "application/json", "text/csv"
_numbers = itertools.count()
# MLflow's forms, which the document does not describe; TEXT stands where a text goes.
TEXT = "TEXT"
INVOCATIONS: tuple[Any, ...] = (
    {"inputs": [TEXT]},
    {"inputs": TEXT},
    {"instances": [TEXT]},
    {"inputs": {TEXT: ["a"]}},
    {TEXT: ["a"]},
    {"dataframe_split": {"columns": ["question"], "data": [[TEXT]]}},
    {"dataframe_split": {"columns": [TEXT], "data": [["a"]]}},
    {"dataframe_records": [{"question": TEXT}]},
    {"dataframe_records": [{TEXT: "a"}]},
    {"inputs": ["a"], "params": {"stop": [TEXT]}},
    {"inputs": ["a"], "params": {TEXT: TEXT}},
    {"inputs": [{"question": "a", "history": [TEXT, TEXT]}]},
)


@dataclass(frozen=True)
class Bad:
    """One request, and which field has which text."""

    place: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, bytes] = field(default_factory=dict)


def bad_requests(document: Mapping[str, Any]) -> Iterator[Bad]:
    """Every text in every field of a body, and in every path and header."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _in_path(method.upper(), path, operation)
            content = operation.get("requestBody", {}).get("content", {})
            if JSON in content and path != "/invocations":
                yield from _in_body(method.upper(), _example_path(path, operation), content[JSON]["schema"], document)
    yield from _in_invocations()
    yield from _in_headers()


def _in_body(method: str, path: str, schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Bad]:
    schema = _resolved(schema, document)
    example = {**schema["examples"][0]} if "examples" in schema else {}
    for place, bodies in _with_texts(schema, document, example):
        for name, body in bodies:
            yield Bad(f"{place}: {name}", method, path, _json(body), {"Content-Type": JSON.encode()})
    for start in (b"{", b'{"question": "'):
        yield Bad("body: no UTF-8", method, path, start + RAW + b"}", {"Content-Type": JSON.encode()})


def _with_texts(
    schema: Mapping[str, Any], document: Mapping[str, Any], example: Any
) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Place -> bodies, each the example with one text there."""
    for name, field_schema in schema.get("properties", {}).items():
        for put in _places(field_schema, document):
            yield name, [(kind, {**_fresh(example), name: put(text)}) for kind, text in TEXTS.items()]


def _fresh(example: Mapping[str, Any]) -> dict[str, Any]:
    """A copy; what is made under a name is made under a new one, or only the first would be stored."""
    return {**example, "name": f"name-{next(_numbers)}"} if "name" in example else dict(example)


def _places(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Any]:
    """Functions from a text to a value of this schema that has the text somewhere."""
    schema = _resolved(schema, document)
    for option in schema.get("anyOf", ()):
        yield from _places(option, document)
    if schema.get("type") == "string":
        yield lambda text: text
    elif schema.get("type") == "array":
        for put in _places(schema.get("items", {}), document):
            yield lambda text, put=put: [put(text)]
    elif schema.get("type") == "object":
        yield from _places_in_object(schema, document)


def _places_in_object(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Any]:
    if "properties" not in schema:
        yield lambda text: {text: "a"}
        yield lambda text: {"a": text}
    example = schema["examples"][0] if "examples" in schema else {"role": "user", "content": "a"}
    for name, field_schema in schema.get("properties", {}).items():
        for put in _places(field_schema, document):
            yield lambda text, name=name, put=put: {**example, name: put(text)}


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


def _in_invocations() -> Iterator[Bad]:
    for form in INVOCATIONS:
        for name, text in TEXTS.items():
            body = _json(form).replace(_json(TEXT), _json(text))
            yield Bad(f"{list(form)}: {name}", "POST", "/invocations", body, {"Content-Type": JSON.encode()})
    for body in (b"question\n" + RAW, RAW, b"question\na\x00b\n", 'question\n"\x1b\u202e"\n'.encode()):
        for content_type in (CSV, "application/x-parquet"):
            yield Bad("body", "POST", "/invocations", body, {"Content-Type": content_type.encode()})


def _in_path(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[Bad]:
    texts = [quote(text, errors="surrogatepass") for text in TEXTS.values()] + [quote_from_bytes(RAW)]
    for parameter in operation.get("parameters", ()):
        for text in texts:
            if parameter["in"] == "path":
                bad_path = path.replace(f"{{{parameter['name']}}}", text)
                yield Bad(parameter["name"], method, _example_path(bad_path, operation))
            elif parameter["in"] == "query":
                yield Bad(parameter["name"], method, f"{_example_path(path, operation)}?{parameter['name']}={text}")


def _in_headers() -> Iterator[Bad]:
    question = _json({"question": "a", "max_new_tokens": 2})
    values = [RAW, b"\x01\x02\x7f", "é🙂".encode(), b"a\x00b", b"x" * 5000]
    for name in ("X-Request-ID", "traceparent", "Authorization", "Host", "Content-Type", "Origin", "X-Any"):
        for value in values:
            yield Bad(f"header {name}", "POST", "/ask", question, {"Content-Type": JSON.encode(), name: value})


def _example_path(path: str, operation: Mapping[str, Any]) -> str:
    """The path with a plain word for what is still open in it; no prompt has this name."""
    for parameter in operation.get("parameters", ()):
        path = path.replace(f"{{{parameter['name']}}}", "no-such-name")
    return path


def _json(value: Any) -> bytes:
    """Surrogates as JSON's own escapes, as a caller's broken program sends them."""
    return json.dumps(value).encode()
