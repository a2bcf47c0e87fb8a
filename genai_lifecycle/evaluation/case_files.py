"""Case files: JSON lines, CSV, and YAML (or JSON) in promptfoo's shape. Every mistake is named with its line."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from genai_lifecycle.errors import CasesInvalid
from genai_lifecycle.evaluation import checks
from genai_lifecycle.evaluation.cases import Case
from genai_lifecycle.evaluation.checks import Assertion

HINT = (
    'Each line is {"question": "...", "reference": "..."}, for example as in bundled_model/corpus/cases.jsonl; '
    "docs/evaluation.md shows CSV and YAML."
)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON's escapes can name one; UTF-8 cannot hold it
# JSON writes 🙂 as two escapes, which YAML takes for two characters that do not exist.
_PAIR = re.compile(r"(?<!\\)\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}")
_EXPECTED = re.compile(r"__expected\d*")
_IN_CSV = re.compile(r"(?P<kind>(not-)?[a-z][a-z-]*)(\((?P<threshold>[\d.]+)\))?:\s*(?P<value>.*)", re.S)
_OURS = ("question", "reference")
_KINDS = {dict: "an object", list: "a list"}
T = TypeVar("T", dict, list)


@dataclass(frozen=True)
class CaseFile:
    """The cases of a file, and what in it cannot be used."""

    cases: tuple[Case, ...]
    lines: tuple[int, ...]  # where each case begins
    prompts: Mapping[str, str] = field(default_factory=dict)  # templates written in the file itself, by name
    left_out: tuple[str, ...] = ()  # sentences


def load_cases(path: Path) -> list[Case]:
    """Cases for the experiment and the test: each has a question and a reference.

    Raises:
        CasesInvalid: the file is missing, unreadable, empty or malformed; the message has the line's number.
    """
    file = read_case_file(path)
    for case, line in zip(file.cases, file.lines, strict=True):
        for name, text in (("question", case.question), ("reference", case.reference)):
            if not text:
                raise CasesInvalid(f"{path}, line {line}: {name!r} is missing or not a text.", hint=HINT)
    return list(file.cases)


def read_case_file(path: Path) -> CaseFile:
    """Read a file of cases; its ending says how (.csv; .yaml, .yml or .json; everything else is JSON lines).

    Raises:
        CasesInvalid: the file is missing, unreadable, empty or malformed; the message has the line's number.
    """
    text = _text(path)
    reader = _Reader(path)
    formats = {".csv": reader.csv, ".yaml": reader.yaml, ".yml": reader.yaml, ".json": reader.yaml}
    numbered = list(formats.get(path.suffix.lower(), reader.json_lines)(text)) if text.strip() else []
    if not numbered:
        raise CasesInvalid(f"The case file {path} is empty.", hint=HINT)
    lines, cases = zip(*numbered, strict=True)
    return CaseFile(cases, lines, reader.prompts, tuple(dict.fromkeys(reader.left_out)))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as exc:
        raise CasesInvalid(f"The case file {path} cannot be read: {exc.strerror}.", hint=HINT) from exc
    except UnicodeDecodeError as exc:
        raise CasesInvalid(f"The case file {path} is not UTF-8 text (byte {exc.start}).", hint=HINT) from exc


class _Reader:
    """Reads one file as (line, case); collects its prompts, and what is left out."""

    def __init__(self, path: Path):
        self.path = path
        self.prompts: dict[str, str] = {}
        self.left_out: list[str] = []

    def bad(self, line: int, problem: str) -> CasesInvalid:
        return CasesInvalid(f"{self.path}, line {line}: {problem}.", hint=HINT)

    def field(self, item: Mapping[str, Any], kind: type[T], line: int, *names: str) -> T:
        """The value under the first of these names; an empty one where there is none."""
        for name in names:
            value = item.get(name)
            if value and not isinstance(value, kind):
                raise self.bad(line, f"{name!r} is {value!r}, not {_KINDS[kind]}"[:200])
            if value:
                return value
        return kind()

    # --- JSON lines: ours, or promptfoo's tests one a line ---

    def json_lines(self, text: str) -> Iterator[tuple[int, Case]]:
        for line, row in enumerate(text.split("\n"), 1):
            if not row.strip():
                continue
            try:
                item = json.loads(row)
            except json.JSONDecodeError as exc:
                raise self.bad(line, f"not valid JSON ({exc.msg})") from exc
            if not isinstance(item, dict):
                raise self.bad(line, "not an object")
            yield from self.cases(item, line)

    # --- CSV: promptfoo's columns ---

    def csv(self, text: str) -> Iterator[tuple[int, Case]]:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        begins = 2
        try:
            for row in rows:
                if None in row or None in row.values():
                    raise self.bad(begins, f"the row has {'more' if None in row else 'fewer'} fields than the header")
                yield from self.cases(self.from_csv(row), begins)
                begins = rows.line_num + 1
        except csv.Error as exc:
            raise self.bad(begins, f"not valid CSV ({exc})") from exc

    def from_csv(self, row: Mapping[str, str]) -> dict[str, Any]:
        special = {name: value for name, value in row.items() if name.startswith("__")}
        variables = {name: value for name, value in row.items() if name not in special and name not in _OURS}
        checks = [
            _from_csv_check(value) for name, value in special.items() if _EXPECTED.fullmatch(name) and value.strip()
        ]
        self.left_out += [f"the column {name} is left out" for name in special
                          if not _EXPECTED.fullmatch(name) and name != "__description"]  # fmt: skip
        ours = {name: row[name] for name in _OURS if row.get(name)}
        return ours | {"variables": variables, "checks": checks, "description": special.get("__description", "")}

    # --- YAML and JSON: promptfoo's configuration, or a bare list of its tests ---

    def yaml(self, text: str) -> Iterator[tuple[int, Case]]:
        import yaml

        text = _PAIR.sub(lambda pair: json.loads(f'"{pair.group()}"'), text)
        try:
            root, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)
            problem = getattr(exc, "problem", None) or "a character that is not allowed"
            raise self.bad(mark.line + 1 if mark else 1, f"not valid YAML ({problem})") from exc
        if isinstance(root, dict):
            yield from self.configuration(root, tree)
        elif isinstance(root, list):
            yield from self.tests(root, tree, {})
        else:
            raise self.bad(1, "neither a list of tests nor an object with the key 'tests'")

    def configuration(self, root: Mapping[str, Any], tree: Any) -> Iterator[tuple[int, Case]]:
        nodes = {key.value: value for key, value in tree.value}
        self.add_prompts(root.get("prompts"))
        unused = [name for name in ("providers", "targets", "scenarios", "transform", "evaluateOptions", "extensions",
                                    "derivedMetrics", "outputPath") if root.get(name)]  # fmt: skip
        self.left_out += [f"{name!r} is left out" for name in unused]
        tests = root.get("tests")
        defaults = self.field(root, dict, _line(nodes.get("defaultTest", tree)), "defaultTest")
        if isinstance(tests, str):
            yield from self.other_file(tests, _line(nodes["tests"]))
        elif isinstance(tests, list):
            yield from self.tests(tests, nodes["tests"], defaults)
        else:
            raise self.bad(1, "there is no list 'tests'")

    def tests(self, items: Sequence[Any], tree: Any, defaults: Mapping[str, Any]) -> Iterator[tuple[int, Case]]:
        for item, node in zip(items, tree.value, strict=True):
            line = _line(node)
            if isinstance(item, str):
                yield from self.other_file(item, line)
            elif isinstance(item, dict):
                yield from self.cases(self.merged(defaults, item, line), line)
            else:
                raise self.bad(line, "a test is not an object")

    def merged(self, defaults: Mapping[str, Any], item: Mapping[str, Any], line: int) -> dict[str, Any]:
        """promptfoo's rule: a test's own variables win, the checks of `defaultTest` come on top."""
        both = {"vars": {}, "assert": []}
        for test in (defaults, item):
            both["vars"] |= self.field(test, dict, line, "vars")
            both["assert"] += self.field(test, list, line, "assert")
        return dict(defaults) | dict(item) | both

    def other_file(self, name: str, line: int) -> Iterator[tuple[int, Case]]:
        other = self.path.parent / name.removeprefix("file://")
        if other.suffix.lower() not in (".csv", ".yaml", ".yml", ".json", ".jsonl"):
            raise self.bad(line, f"tests from {name!r} are not supported; use a CSV, YAML or JSON lines file")
        file = read_case_file(other)
        self.left_out += file.left_out
        yield from zip(file.lines, file.cases, strict=True)

    def add_prompts(self, prompts: Any) -> None:
        """Templates in the file; a file of its own, or a function, is not read."""
        for item in [prompts] if isinstance(prompts, str) else prompts or []:
            text = item.get("raw") if isinstance(item, dict) else item
            if not isinstance(text, str) or re.match(r"\S+://|\S+\.(txt|json|yaml|py|js|md)$", text):
                self.left_out.append(f"the prompt {str(text or item)[:60]!r} is left out: only a text is used")
            elif "{%" in text:
                self.left_out.append(f"the prompt {text[:60]!r} is left out: it is a program for Nunjucks")
            else:
                label = item.get("label") if isinstance(item, dict) else None
                self.prompts[_prompt_name(label, len(self.prompts) + 1)] = text

    # --- one test, from whatever file ---

    def cases(self, item: Mapping[str, Any], line: int) -> Iterator[tuple[int, Case]]:
        """The case of one test; several when a variable is a list (promptfoo: every combination)."""
        variables = dict(self.field(item, dict, line, "vars", "variables"))
        for name in _OURS:
            if item.get(name) is not None or (name in item and "vars" not in item):
                variables[name] = self.text(name, item[name], line)
        for name in ("options", "provider", "providers", "assertScoringFunction"):
            if item.get(name):
                self.left_out.append(f"{name!r} of a test is left out")
        for values in self.combinations(variables, line):
            yield line, self.case(item, values, line)

    def combinations(self, variables: Mapping[str, Any], line: int) -> Iterable[dict[str, str]]:
        lists = [value if isinstance(value, list) else [value] for value in variables.values()]
        for values in itertools.product(*lists):
            yield {name: self.text(name, value, line) for name, value in zip(variables, values, strict=True)}

    def text(self, name: str, value: Any, line: int) -> str:
        if isinstance(value, (int, float)) and name not in _OURS:
            return json.dumps(value)
        blank = isinstance(value, str) and not value.strip() and name in _OURS
        if not isinstance(value, str) or blank or _HALF_CHARACTER.search(value):
            raise self.bad(line, f"{name!r} is missing or not a text")
        if value.startswith("file://"):
            raise self.bad(line, f"{name!r} is in a file of its own ({value[:60]}), which is not supported")
        return value

    def case(self, item: Mapping[str, Any], variables: dict[str, str], line: int) -> Case:
        question, reference = variables.pop("question", ""), variables.pop("reference", "")
        if not question and not variables:
            raise self.bad(line, "'question' is missing or not a text")
        values = {"question": question, "reference": reference} | variables
        assertions = [self.assertion(check, values, line) for check in self.field(item, list, line, "assert", "checks")]
        return Case(
            question, reference, variables, tuple(item for item in assertions if item is not None),
            self.number("threshold", item.get("threshold"), line), str(item.get("description") or ""),
        )  # fmt: skip

    def assertion(self, check: Any, values: Mapping[str, str], line: int) -> Assertion | None:
        """None when it is one of promptfoo's checks that is not made here."""
        if not isinstance(check, dict) or not isinstance(check.get("type"), str):
            raise self.bad(line, f"a check is {check!r}, not an object with a 'type'"[:200])
        kind = check["type"]
        if reason := checks.unsupported(kind):
            self.left_out.append(f"the check {kind!r} is left out: it {reason}")
            return None
        if kind.removeprefix("not-") not in checks.CHECKS:
            raise self.bad(line, f"the check {kind!r} is unknown; did you mean {checks.nearest(kind)}?")
        if kind.endswith("is-json") and check.get("value") is not None:
            self.left_out.append("the schema of 'is-json' is left out: only that it is JSON is checked")
        self.left_out += [f"{name!r} of a check is left out" for name in ("transform", "provider") if check.get(name)]
        assertion = Assertion(
            kind.removeprefix("not-"), _filled(check.get("value"), values),
            self.number("threshold", check.get("threshold"), line), self.number("weight", check.get("weight", 1), line),
            str(check.get("metric") or ""), kind.startswith("not-"),
        )  # fmt: skip
        self.require_usable(assertion, values, line)
        return assertion

    def require_usable(self, assertion: Assertion, values: Mapping[str, str], line: int) -> None:
        if assertion.type in checks.NEEDS_VALUE and assertion.value is None:
            raise self.bad(line, f"the check {assertion.type!r} has no 'value'")
        if assertion.type in checks.NEEDS_REFERENCE and assertion.value is None and not values["reference"]:
            raise self.bad(line, f"the check {assertion.type!r} needs a 'value', or a reference")
        try:
            if assertion.type == "regex":
                re.compile(str(assertion.value))
            if assertion.type in ("word-count", "length", "tokens"):
                checks.limits(assertion)
        except (re.error, TypeError, ValueError) as exc:
            problem = f"the value {assertion.value!r} of the check {assertion.type!r} is wrong ({exc})"
            raise self.bad(line, problem) from exc

    def number(self, name: str, value: Any, line: int) -> Any:
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        raise self.bad(line, f"{name!r} is {value!r}, not a number")


def _line(node: Any) -> int:
    """Where a node of YAML begins, counted from 1."""
    return node.start_mark.line + 1


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """The variables that a check's value names, filled in once (promptfoo's rule); unknown ones stay."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: variables.get(match.group(1), match.group()), value)
    return [_filled(item, variables) for item in value] if isinstance(value, list) else value


def _from_csv_check(text: str) -> dict[str, Any]:
    """promptfoo's short form: `contains: word`, `rouge-n(0.6): text`, `is-json`; any other text must be equalled."""
    known = checks.CHECKS
    if text.strip().removeprefix("not-") in known:
        return {"type": text.strip()}
    match = _IN_CSV.fullmatch(text.strip())
    kind = match["kind"].removeprefix("not-") if match else ""
    if not match or (kind not in known and not checks.unsupported(kind)):
        return {"type": "equals", "value": text}
    threshold = float(match["threshold"]) if match["threshold"] else None
    if kind in ("latency", "repetition", "tokens", "length", "log-likelihood") and threshold is None:
        return {"type": match["kind"], "threshold": _number_or_text(match["value"])}
    return {"type": match["kind"], "threshold": threshold} | ({"value": match["value"]} if match["value"] else {})


def _number_or_text(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _prompt_name(label: Any, number: int) -> str:
    return re.sub(r"[^\w.-]+", "-", str(label)).strip("-") if label else f"prompt-{number}"
