"""Mode `chat`: a conversation at the terminal with a running server or with a registered version loaded here.

Answers stream, earlier turns are kept. Through a pipe it takes one question a line, each on its own, and gives one
answer a line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from genai_lifecycle.config import E2EConfig, check_model_uri, check_server_url
from genai_lifecycle.errors import ConfigError, LifecycleError, NotFound, ServerFailed
from genai_lifecycle.prompts import references
from genai_lifecycle.prompts.variables import VARIABLE, variables_of
from genai_lifecycle.serving.client import KEY_HINT, new_client
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.prompt_registry import PromptRef

HELP = (
    "/reset forgets the earlier turns, /info says who answers, /prompt NAME, NAME@ALIAS or NAME/VERSION asks with a "
    "prompt of the registry, /prompt alone as before, /quit ends (so does Ctrl-D)."
)


@dataclass(frozen=True)
class ChatSettings(Settings):
    """Who answers."""

    url: str | None = setting(
        None, "a running server, http://HOST:PORT (its key from API_KEYS); the champion, loaded here, when left out",
        env="CHAT_URL", check=check_server_url,
    )  # fmt: skip
    model_uri: str | None = setting(
        None, "models:/NAME/VERSION or models:/NAME@ALIAS, loaded here", metavar="URI", check=check_model_uri
    )

    @property
    def server(self) -> str | None:
        """The server to talk to; a version that was named takes the place of one that only CHAT_URL names."""
        return None if self.model_uri and "url" in self.from_environment else self.url


class Partner(Protocol):
    """Whoever answers."""

    def stream(self, question: str, history: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """`{"delta": text}` as it comes, then the whole answer's fields with an empty delta."""

    def info(self) -> Mapping[str, Any]:
        """Who it is."""

    def use_prompt(self, name: str) -> None:
        """From now on ask with a prompt of the registry; an empty name is the partner's own again.

        Raises:
            NotFound, ConfigError: there is no such prompt, or it will not do; perhaps not before the next question.
        """


class HttpPartner:
    """A running server, through its `/ask/stream`."""

    def __init__(self, url: str, key: str, most_new_tokens: int):
        self._client = new_client(url, key)
        self._most, self._prompt = most_new_tokens, {}

    def stream(self, question: str, history: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        import httpx
        from httpx_sse import SSEError, connect_sse

        body = {"question": question, "history": list(history), "max_new_tokens": self._most, **self._prompt}
        try:
            with connect_sse(self._client, "POST", "/ask/stream", json=body) as source:
                if source.response.status_code != 200:
                    raise self._refused(source.response)
                for event in source.iter_sse():
                    yield _piece(event.event, event.json())
        except (httpx.HTTPError, SSEError, json.JSONDecodeError) as exc:
            raise ServerFailed(f"The server does not answer ({type(exc).__name__}).", hint=_START_HINT) from exc

    def info(self) -> Mapping[str, Any]:
        import httpx

        try:
            response = self._client.get("/model/info")
        except httpx.HTTPError as exc:
            raise ServerFailed(f"The server does not answer ({type(exc).__name__}).", hint=_START_HINT) from exc
        if response.status_code != 200:
            raise self._refused(response)
        return response.json()

    def use_prompt(self, name: str) -> None:
        alone, _, alias = name.partition("@")
        alone, _, version = alone.partition("/")
        if version and not version.isdecimal():
            raise ConfigError(f"The prompt {name!r} is not named as one.", hint="Use NAME@ALIAS, NAME/VERSION or NAME.")
        named = {"prompt_name": alone, "prompt_alias": alias, "prompt_version": int(version or 0)}
        self._prompt = {field: value for field, value in named.items() if value}

    def _refused(self, response: Any) -> LifecycleError:
        response.read()
        try:
            detail = response.json()["detail"]
        except (json.JSONDecodeError, KeyError, TypeError):
            detail = f"It answered {response.status_code}; it is not our server."
        if self._prompt and response.status_code in (400, 404, 409, 422):  # what is wrong is the prompt
            return NotFound(detail)
        return ServerFailed(detail, hint=KEY_HINT if response.status_code == 401 else "")


_START_HINT = "Start one with --mode serve --start, or leave --url out to load the champion here."


def _piece(event: str, data: dict[str, Any]) -> Mapping[str, Any]:
    if event == "error":
        raise ServerFailed(data["detail"])
    return {"delta": "", **data} if event == "end" else data


class LoadedPartner:
    """A registered version, loaded into this process."""

    def __init__(self, model_uri: str, most_new_tokens: int):
        self._uri, self._most = model_uri, most_new_tokens
        self._model = model_registry.load(model_uri)
        self._prompt: PromptRef | None = None

    def stream(self, question: str, history: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        asked, params = {"question": question, "history": list(history)}, {"max_new_tokens": self._most}
        if self._prompt is None or history:  # with earlier turns the turns speak for themselves
            yield from self._model.predict_stream(asked, params=params)
            return
        asked["question"] = VARIABLE.sub(lambda _: question, self._prompt.template)
        yield from self._model.unwrap_python_model().model.stream(asked, params, is_rendered=True)

    def use_prompt(self, name: str) -> None:
        prompt = references.look_up(name) if name else None
        if prompt is not None and variables_of(prompt.template) != ("question",):
            raise ConfigError(f"The prompt {name!r} has other variables.", hint="A chat fills in {{question}} only.")
        self._prompt = prompt

    def info(self) -> Mapping[str, Any]:
        packaged = self._model.unwrap_python_model().model
        prompt = packaged.prompt
        return {
            "model_uri": self._uri,
            "prompt": f"{prompt['name']}/{prompt['version']}" if self._prompt is None else str(self._prompt),
            "engine": packaged.describe(),
        }


@dataclass
class Session:
    """The turns so far and where the words go."""

    partner: Partner
    write: Callable[[str], None]
    for_a_person: bool  # else one question a line in, each on its own, one answer a line out
    history: list[str] = field(default_factory=list)

    def run(self, lines: Iterable[str]) -> None:
        """Until the lines end or `/quit`."""
        for line in lines:
            text = line.strip()
            if text in ("/quit", "/exit"):
                return
            if text.startswith("/"):
                self._command(text)
            elif text:
                self._ask(text)

    def _command(self, text: str) -> None:
        if text == "/reset":
            self.history.clear()
            self.write("The earlier turns are forgotten.\n")
        elif text == "/info":
            self.write(json.dumps(dict(self.partner.info()), indent=2) + "\n")
        elif text.split()[0] == "/prompt":
            self._use_prompt(text.removeprefix("/prompt").strip())
        else:
            self.write(f"{HELP}\n")

    def _use_prompt(self, name: str) -> None:
        """A prompt is for a first question, so the earlier turns go."""
        try:
            self.partner.use_prompt(name)
        except (NotFound, ConfigError) as exc:
            self.write(f"{exc}\n")
            return
        self.history.clear()
        self.write(f"From here on with {name or 'its own prompt'}; the earlier turns are forgotten.\n")

    def _ask(self, question: str) -> None:
        try:
            self._answered(question)
        except NotFound as exc:  # the server knows no such prompt
            self.partner.use_prompt("")
            self.write(f"{exc}\nBack to its own prompt.\n")

    def _answered(self, question: str) -> None:
        started, answer = time.monotonic(), ""
        for piece in self.partner.stream(question, self.history):
            if piece["delta"] and self.for_a_person:
                self.write(piece["delta"])
            if not piece["delta"]:
                answer = piece["answer"]
                self._finish(piece, time.monotonic() - started)
        if self.for_a_person:
            self.history += [question, answer]

    def _finish(self, whole: Mapping[str, Any], seconds: float) -> None:
        if not self.for_a_person:
            self.write(" ".join(whole["answer"].split()) + "\n")
            return
        tokens = whole.get("completion_tokens") or 0
        first = whole.get("first_token_s") or 0.0
        end = "" if whole.get("finish_reason") == "stop" else f", ended by {whole.get('finish_reason')}"
        self.write(f"\n  {tokens} tokens, first after {first:.2f} s, {seconds:.2f} s in all{end}\n\n")


def open_partner(config: E2EConfig, settings: ChatSettings, key: str = "") -> Partner:
    """The server at `--url`, or the version at `--model-uri` (default: the champion), loaded here.

    Args:
        key: one of the server's keys; "" for a server without.

    Raises:
        ConfigError: both were given.
        NotFound: there is no champion yet.
    """
    if settings.server and settings.model_uri:
        raise ConfigError("Both --url and --model-uri were given.", hint="Give one of them.")
    if settings.server:
        return HttpPartner(settings.server, key, config.max_new_tokens)
    name = config.registered_model_name
    return LoadedPartner(settings.model_uri or model_registry.best_uri(name), config.max_new_tokens)


def typed_lines() -> Iterator[str]:
    """What a person types, with the arrow keys' history where the system has it, until Ctrl-D."""
    try:
        import readline  # noqa: F401 - gives input() its line editing
    except ImportError:  # not on every system
        pass
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
