"""Which prompt an answer is made with: the one in production now, its last good copy on disk, or the model's own.

No answer waits for MLflow: a thread looks the alias up every few seconds, and answers use its last result. Only a
prompt that a caller names is looked up while the caller waits, and then cached.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from genai_server.errors import BadQuestion, NoRegistry, Overloaded, RegistryDown, UnknownPrompt
from genai_server.prompts.registry import PRODUCTION, PromptRegistry, StoredVersion
from genai_server.runtime.daemon import run_in_daemon
from genai_server.runtime.logs import Outage

log = logging.getLogger(__name__)
T = TypeVar("T")

LIVE, DISK, MODEL, NAMED = "live", "disk", "model", "named"  # sources
QUESTION = "question"
LOOKUP_TIMEOUT_S = 3.0  # of a caller who names a prompt
MAX_LOOKUPS = 8  # at a time; with a dead MLflow all of them are stuck, and the next caller is refused at once
MAX_NAMED = 256  # in the cache
# MLflow's own pattern (mlflow.prompt.constants).
VARIABLE = re.compile(r"\{\{\s*([a-zA-Z_][a-zA-Z0-9_]*(?:\.[a-zA-Z_][a-zA-Z0-9_]*)*)\s*\}\}")


@dataclass(frozen=True)
class PromptText:
    """A prompt that an answer can be made with."""

    name: str
    version: int
    template: str  # {{name}} is a variable, every other brace is text
    source: str  # live | disk | named

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def variables_of(template: str) -> tuple[str, ...]:
    """The names of the variables, each once, in the order of the text."""
    return tuple(dict.fromkeys(VARIABLE.findall(template)))


def render(prompt: PromptText, values: Mapping[str, str]) -> str:
    """The text for the model. What a value holds stays as it is, a `{{variable}}` too.

    Raises:
        BadQuestion: a variable is missing or unknown; it is named.
    """
    variables = variables_of(prompt.template)
    missing, unknown = [name for name in variables if name not in values], sorted(set(values) - set(variables))
    if missing or unknown:
        kinds = (("missing", missing), ("unknown", unknown))
        problems = "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds if names)
        sentence = f"Variables of {prompt}: {problems}."
        raise BadQuestion(sentence, f"It takes: {', '.join(variables) or 'none'}.")
    return VARIABLE.sub(lambda match: values[match.group(1)], prompt.template)


def template_error(template: str) -> str:
    """What is wrong with a template that MLflow would store, but nobody could fill in, as a sentence; else empty."""
    if not template.strip():
        return "The template is empty."
    if "{%" in template and "%}" in template:
        return "The template is Jinja ({% … %}); use {{variable}} only."
    for part in VARIABLE.split(template)[::2]:
        if "{{" in part:
            opened, closed, _ = part[part.index("{{") :].partition("}}")
            shown = f"{opened}{closed}".splitlines()[0][:60]
            return f"{shown!r} is no variable." if closed else f"The template has an unclosed {{{{: {shown!r}."
    return ""


def unusable_reason(stored: StoredVersion) -> str:
    """Why no answer can be made with it; else empty."""
    if stored.is_chat:
        return "it is a list of chat messages"
    if "{%" in stored.template and "%}" in stored.template:
        return "it is Jinja"
    return "" if stored.template.strip() else "it is empty"


class Prompts:
    """The prompt in production, and a cache of those that callers named.

    Args:
        registry: None where there is none; then every answer is made with the model's own prompt.
        refresh_s: how often the alias is looked up; 0 = never.
        file: the last good copy.
        on_write_failure: called for each time that the copy cannot be written.
    """

    def __init__(
        self, registry: PromptRegistry | None, refresh_s: float, file: Path,
        on_write_failure: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        self.registry, self._refresh_s, self._file = registry, refresh_s, file
        self._registry_id = registry.identity if registry else ""
        self._on_write_failure = on_write_failure
        self._file_outage = Outage(log, "a copy of the prompt is kept again")
        self._prompt_name: Callable[[], str | None] = lambda: None
        self._production: PromptText | None = None
        self._looked_up_name, self._last_warning = "", ""
        self._named: dict[tuple[str, int | str], tuple[float, PromptText]] = {}
        self._lookups = 0
        self._wake, self._stopping = threading.Event(), threading.Event()

    # --- the one in production ---

    def start(self, prompt_name: Callable[[], str | None]) -> None:
        """Look up the prompt of this name from now on. It changes with the model; None while there is no model."""
        if self.registry is None or not self._refresh_s:
            return
        self._prompt_name = prompt_name
        self._production = self._read_copy(prompt_name() or "")
        threading.Thread(target=self._refresh_repeatedly, args=(self.registry,), name="prompt", daemon=True).start()

    def stop(self) -> None:
        """End the look-ups. One that is stuck ends with the process."""
        self._stopping.set()
        self._wake.set()

    def current(self, own: str | None) -> PromptText | None:
        """The prompt for an answer now; None for the model's own, whose name is `own`. Never waits."""
        if not own or self.registry is None:
            return None
        if self._looked_up_name != own:  # another model answers now
            self._wake.set()
        last = self._production
        return last if last is not None and last.name == own else None

    def _refresh_repeatedly(self, registry: PromptRegistry) -> None:
        while not self._stopping.is_set():
            if name := self._prompt_name():
                self._refresh(registry, name)
            self._wake.wait(self._refresh_s)
            self._wake.clear()

    def _refresh(self, registry: PromptRegistry, name: str) -> None:
        try:
            stored = registry.find(name)
        except UnknownPrompt:
            self._use_own(name)
        except Exception as exc:  # noqa: BLE001 - whatever MLflow raises, answers go on with what there is
            self._use_last_good(name, str(exc))
        else:
            self._use(stored)
        self._looked_up_name = name

    def _use(self, stored: StoredVersion) -> None:
        reason = unusable_reason(stored) or _wrong_variables(stored.template)
        if reason:
            self._use_last_good(stored.name, f"{stored.name}/{stored.version} cannot be used: {reason}")
            return
        prompt = PromptText(stored.name, stored.version, stored.template, LIVE)
        if self._production is None or replace(self._production, source=LIVE) != prompt:
            log.info("the prompt in production is %s", prompt)
            self._write_copy(prompt)
        elif self._file_outage.is_on:
            self._write_copy(prompt)
        self._production, self._last_warning = prompt, ""

    def _use_last_good(self, name: str, reason: str) -> None:
        """Go on with the last good version, from memory or from the disk."""
        last = self._production
        if last is None or last.name != name:
            last = self._read_copy(name)
        self._production = replace(last, source=DISK) if last else None
        if reason != self._last_warning:  # once, not at every look
            log.warning("the prompt in production is not known now, %s goes on: %s", last or "the model's own", reason)
        self._last_warning = reason

    def _use_own(self, name: str) -> None:
        """MLflow has nothing in production: the model's own prompt is the right one then."""
        if self._production is not None:
            log.info("no version of %s is in production; the model's own prompt is used", name)
        self._production, self._last_warning = None, ""
        try:
            self._file.unlink(missing_ok=True)
        except OSError as exc:
            self._on_write_failure()
            self._file_outage.begin(f"the copy of the prompt cannot be removed: {exc.strerror}")

    def _write_copy(self, prompt: PromptText) -> None:
        """Atomically. A full disk costs the copy, not an answer."""
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}.part")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            copy = {"registry": self._registry_id, "prompt": asdict(prompt)}
            part.write_text(json.dumps(copy), "utf-8")
            os.replace(part, self._file)
        except OSError as exc:
            with suppress(OSError):
                part.unlink()
            self._on_write_failure()
            self._file_outage.begin(f"no copy of the prompt is kept: {exc.strerror}")
        else:
            self._file_outage.end()

    def _read_copy(self, name: str) -> PromptText | None:
        """The last good copy, if it is of this name and registry."""
        try:
            copy = json.loads(self._file.read_text("utf-8"))
            prompt = PromptText(**copy["prompt"] | {"source": DISK})
            is_valid = copy["registry"] == self._registry_id and prompt.name == name
            return prompt if is_valid and not _wrong_variables(prompt.template) else None
        except (OSError, ValueError, TypeError, LookupError):
            return None

    # --- one that a caller names ---

    async def named(self, name: str, version: int | None, alias: str | None) -> PromptText:
        """A version, or the one that an alias (production) names.

        Raises:
            NoRegistry, UnknownPrompt, RegistryDown: there is no registry, no such prompt, or no answer in time.
            BadQuestion: no answer can be made with it.
        """
        key = (name, version if version is not None else alias or PRODUCTION)
        until, last = self._named.get(key, (0.0, None))
        if last is not None and time.monotonic() < until:
            return last
        try:
            stored = await self.ask(lambda registry: registry.find(name, version, alias), LOOKUP_TIMEOUT_S)
        except RegistryDown:
            if last is None:
                raise
            return last
        if reason := unusable_reason(stored):
            raise BadQuestion(f"{name}/{stored.version} cannot be used: {reason}.", "Name another version.")
        prompt = PromptText(name, stored.version, stored.template, NAMED)
        if len(self._named) >= MAX_NAMED:
            self._named.clear()
        self._named[key] = (time.monotonic() + self._refresh_s, prompt)
        return prompt

    async def ask(self, call: Callable[[PromptRegistry], T], timeout_s: float) -> T:
        """What the registry says, asked on a thread that is abandoned after the timeout. Raises ServerError."""
        registry = self.registry
        if registry is None:
            raise NoRegistry("This server has no prompt registry.", "It answers with the prompt frozen in its model.")
        if self._lookups >= MAX_LOOKUPS:
            raise Overloaded("Too many look-ups in MLflow are under way.", "Ask again in a few seconds.")
        self._lookups += 1
        answer = run_in_daemon(lambda: call(registry))
        answer.add_done_callback(self._lookup_ended)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), timeout_s)
        except TimeoutError as exc:
            raise RegistryDown(f"MLflow did not answer within {timeout_s:g} s.", "Ask again later.") from exc

    def _lookup_ended(self, answer: asyncio.Future[Any]) -> None:
        self._lookups -= 1
        if not answer.cancelled():
            answer.exception()  # marks it as retrieved: perhaps nobody waits for it any more


def _wrong_variables(template: str) -> str:
    """Why a question alone does not fill it in; else empty."""
    return "" if variables_of(template) == (QUESTION,) else "its one variable has to be {{question}}"


OWN_ONLY = Prompts(None, 0, Path(os.devnull))  # without a registry
