"""Asks every route of a running bundle and compares the answers with those recorded at deploy.

Needs Python's standard library only. In the container it is the health check too (`--ready`); on another machine it
takes the server's address: `python3 test_bundle.py --url http://HOST:8000`. The recorded answers are read from the
bundle's folder, which is the one that this file is in. A server with keys is asked with the first one of API_KEYS_FILE,
API_KEYS, ADMIN_KEYS_FILE or ADMIN_KEYS.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_S = 120.0
JSON = "application/json"
ASK_AGAIN_S = 0.2
METHODS = ("get", "post", "put", "patch", "delete")
READS = "GET"


class Mismatch(Exception):
    """The server answered something else than it should."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Any  # HTTPMessage: names in any case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, str]]:
        """(name, data) of every server-sent event; an event without a name is a "message"."""
        found = []
        for block in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in fields:
                found.append((fields.get("event", "message"), fields["data"]))
        return found


class Server:
    """The server at an address; remembers which routes were asked."""

    def __init__(self, url: str, key: str = ""):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SystemExit(f"Error: --url is {url!r}; use http://HOST:PORT.")
        self._parts, self._key = parts, key
        self.asked: set[tuple[str, str]] = set()

    def get(self, path: str, *, route: str = "", with_key: bool = True) -> Reply:
        return self._send("GET", path, None, {}, route, with_key)

    def post(self, path: str, body: Any, *, content_type: str = JSON, route: str = "", with_key: bool = True) -> Reply:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        return self._send("POST", path, data, {"Content-Type": content_type}, route, with_key)

    def ask(self, method: str, path: str, body: Any, *, route: str, with_key: bool) -> Reply:
        """Any other method, with a JSON body."""
        data = json.dumps(body).encode()
        return self._send(method, path, data, {"Content-Type": JSON}, route, with_key)

    def _send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], route: str, with_key: bool
    ) -> Reply:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        # no urllib: it would send a request to this very machine through a proxy that the environment names
        connection = kind(self._parts.hostname, self._parts.port, timeout=TIMEOUT_S)
        if self._key and with_key:
            headers = headers | {"Authorization": f"Bearer {self._key}"}
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, data, headers)
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read())
        finally:
            connection.close()
        self.asked.add((method, route or path))
        return reply


@dataclass(frozen=True)
class Expected:
    """What the bundle's folder says."""

    manifest: dict[str, Any]
    golden: list[dict[str, Any]]
    prompt: dict[str, Any]
    openapi: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Expected:
        artifacts = folder / "model" / "artifacts"
        files = (
            folder / "manifest.json", artifacts / "golden.json", artifacts / "prompt.json", folder / "openapi.json",
        )  # fmt: skip
        try:
            return cls(*(json.loads(path.read_text("utf-8")) for path in files))
        except OSError as exc:
            raise SystemExit(f"Error: {exc.filename} cannot be read; run this file in the bundle's folder.") from exc

    def token_ids(self, engine: str) -> list[list[int]]:
        """Of every golden answer, as this engine must give it."""
        return [item.get(f"{engine}_token_ids", item["token_ids"]) for item in self.golden]


def same(what: str, found: Any, wanted: Any) -> None:
    """Raise Mismatch unless both are equal."""
    if found != wanted:
        raise Mismatch(f"{what} is {_short(found)}, not {_short(wanted)}")


def holds(what: str, fact: Any) -> None:
    """Raise Mismatch unless `fact` is true."""
    if not fact:
        raise Mismatch(what)


def answered(reply: Reply, status: int = 200) -> Reply:
    """The reply, when it has this status."""
    if reply.status != status:
        raise Mismatch(f"status {reply.status}, not {status}: {_short(reply.body.decode('utf-8', 'replace'))}")
    return reply


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:160]}…"


class Questions:
    """The golden questions, and the checks that compare a server's answers with the recorded ones."""

    def __init__(self, server: Server, expected: Expected):
        self.server, self.expected = server, expected
        self.items = expected.golden
        self.first = expected.golden[0]
        self.info: dict[str, Any] = {}
        self.answers: list[list[int]] = []  # token ids, as they came

    # --- who answers ---

    def identity(self) -> str:
        """The version that the manifest names answers."""
        self.info = answered(self.server.get("/model/info")).json()
        wanted = self.expected.manifest
        same("model", self.info["model"], wanted["model"]["name"])
        same("model_version", self.info["model_version"], str(wanted["model"]["version"]))
        same("weights_sha256", self.info["weights_sha256"], wanted["weights_sha256"])
        same("run_id", self.info["run_id"], wanted["run_id"])
        name, version = self.expected.prompt["name"], self.expected.prompt["version"]
        same("prompt", self.info["prompt"], f"{name}/{version}")
        same("engine", self.info["engine"]["name"], wanted["engine"])
        return f"{self.info['model']} version {self.info['model_version']}, engine {wanted['engine']}"

    def health(self) -> str:
        paths = ("/health", "/health/live", "/health/ready", "/livez", "/readyz", "/startupz", "/healthz")
        for path in paths:
            same(path, answered(self.server.get(path, with_key=False)).json()["status"], "ready")
        return f"{len(paths)} probes"

    def openapi(self) -> str:
        served = answered(self.server.get("/openapi.json")).json()
        same("its routes", _routes(served), _routes(self.expected.openapi))
        return f"{len(_routes(served))} routes, as in openapi.json"

    def pages(self) -> str:
        """Swagger and the question page, with nothing from another host."""
        holds("the page at / has no form of ours", "/ask" in answered(self.server.get("/")).text)
        page = answered(self.server.get("/docs")).text
        files = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
        holds("Swagger names no files of its own", files)
        holds("Swagger loads a file from another host", not re.search(r'(?:src|href)="(?:https?:)?//', page))
        for file in files:
            holds(f"{file} is empty", answered(self.server.get(f"/{file}")).body)
        return f"{len(files)} files of Swagger, none from another host"

    # --- answers ---

    def invocations(self) -> str:
        """Token for token: the one route that returns them."""
        body = {"inputs": [{"question": item["question"]} for item in self.items], "params": self._length()}
        found = answered(self.server.post("/invocations", body)).json()["predictions"]
        self.answers = [answer["token_ids"] for answer in found]
        for item, answer, ids in zip(self.items, found, self._ids(), strict=True):
            same(f"token_ids of {item['question']!r}", answer["token_ids"], ids)
            if ids == item["token_ids"]:  # the text was recorded with these
                same(f"answer of {item['question']!r}", answer["answer"], item["answer"])
        return f"{len(found)} of {len(found)} golden answers, token for token"

    def invocations_csv(self) -> str:
        text = io.StringIO()
        csv.writer(text).writerows([["question"], *([item["question"]] for item in self.items)])
        found = answered(self.server.post("/invocations", text.getvalue(), content_type="text/csv")).json()
        same("the number of answers", len(found["predictions"]), len(self.items))
        return f"{len(self.items)} answers"

    def ask(self) -> str:
        for item in self.items:
            answer = answered(self.server.post("/ask", self._question(item))).json()
            self._check_text(item, answer["answer"])
            same("model_version", answer["model_version"], str(self.expected.manifest["model"]["version"]))
        return f"{len(self.items)} of {len(self.items)} golden answers"

    def ask_batch(self) -> str:
        body = {"questions": [self._question(item) for item in self.items] + [{"question": " "}]}
        found = answered(self.server.post("/ask/batch", body)).json()
        for item, got in zip(self.items, found["answers"], strict=False):
            self._check_text(item, got["answer"]["answer"])
        same("the number of items with an error", found["failed"], 1)
        return f"{len(self.items)} golden answers, and the error of an empty question"

    def ask_stream(self) -> str:
        events = answered(self.server.post("/ask/stream", self._question(self.first))).events()
        text = "".join(json.loads(data)["delta"] for name, data in events if name == "message")
        same("the last event", events[-1][0], "end")
        whole = json.loads(events[-1][1])["answer"]
        same("what was streamed", text.strip(), whole.strip())
        self._check_text(self.first, whole)
        return f"{len(events)} events"

    # --- OpenAI's routes ---

    def models(self) -> str:
        listed = answered(self.server.get("/v1/models")).json()["data"]
        same("the models", [model["id"] for model in listed], [self.info["model"]])
        one = self.server.get(f"/v1/models/{quote(self.info['model'])}", route="/v1/models/{name}")
        same("the model", answered(one).json()["id"], self.info["model"])
        return self.info["model"]

    def chat(self) -> str:
        choice = answered(self.server.post("/v1/chat/completions", self._chat())).json()["choices"][0]
        self._check_text(self.first, choice["message"]["content"])
        return "a golden answer"

    def chat_stream(self) -> str:
        events = answered(self.server.post("/v1/chat/completions", self._chat() | {"stream": True})).events()
        same("the last event", events[-1][1], "[DONE]")
        choices = [json.loads(data)["choices"][0] for _, data in events[:-1]]
        self._check_text(self.first, "".join(choice["delta"].get("content", "") for choice in choices).strip())
        return f"{len(events)} events"

    def completions(self) -> str:
        choice = answered(self.server.post("/v1/completions", self._completion())).json()["choices"][0]
        self._check_continued(choice["text"])
        return "a text continued"

    def completions_stream(self) -> str:
        events = answered(self.server.post("/v1/completions", self._completion() | {"stream": True})).events()
        same("the last event", events[-1][1], "[DONE]")
        self._check_continued("".join(json.loads(data)["choices"][0]["text"] for _, data in events[:-1]))
        return f"{len(events)} events"

    # --- the rest ---

    def mlflow(self) -> str:
        answered(self.server.get("/ping", with_key=False))
        version = answered(self.server.get("/version")).text
        holds(f"the version is {version!r}", re.fullmatch(r"\d+\.\d+\.\d+\S*", version))
        return f"MLflow {version}"

    def feedback(self) -> str:
        request_id = self.server.post("/ask", self._question(self.first)).headers["X-Request-ID"]
        body = {"request_id": request_id, "name": "bundle_test", "value": True, "source": "test_bundle.py"}
        return f"kept in the {answered(self.server.post('/feedback', body)).json()['kept']}"

    def metrics(self) -> str:
        text = answered(self.server.get("/metrics")).text
        samples = [line for line in text.splitlines() if line and not line.startswith("#")]
        holds("there are no samples", samples)
        holds("the requests to /ask are not counted", any('"/ask"' in line for line in samples))
        return f"{len(samples)} samples"

    def closed(self) -> str:
        """What changes the model or a prompt: closed without keys; with keys, closed to whoever has none."""
        status = 401 if self._has_keys() else 403
        routes = sorted(route for route in _routes(self.expected.openapi) if _changes_something(*route))
        for method, path in routes:
            reply = self.server.ask(method, _filled_in(path), {}, route=path, with_key=False)
            holds(f"{method} {path} answers {reply.status}, not {status}", reply.status == status)
        return f"{len(routes)} routes closed ({status})"

    def prompts(self) -> str:
        """A bundle has no registry of prompts, and says so."""
        routes = sorted(r for r in _routes(self.expected.openapi) if r[1].startswith("/prompts") and r[0] == READS)
        for _, path in routes:
            answered(self.server.get(_filled_in(path), route=path), 409)
        return f"{len(routes)} routes: no registry"

    def refusals(self) -> str:
        """One plain sentence for what is wrong, never a 500."""
        cases: list[tuple[str, Any, str, int]] = [
            ("/ask", {"question": ""}, JSON, 422),
            ("/ask", {"question": "x", "max_new_tokens": 0}, JSON, 422),
            ("/ask", "{", JSON, 422),
            ("/ask/stream", {"question": " "}, JSON, 400),
            ("/ask/batch", {"questions": []}, JSON, 422),
            ("/invocations", "{", JSON, 400),
            ("/invocations", "x", "text/html", 415),
            ("/v1/chat/completions", {"model": "another", "messages": [{"role": "user", "content": "x"}]}, JSON, 404),
            ("/v1/completions", {"model": self.info["model"], "prompt": ""}, JSON, 400),
            ("/feedback", {"request_id": "x"}, JSON, 400),
            ("/nowhere", {}, JSON, 404),
        ]
        for path, body, content_type, status in cases:
            try:
                answered(self.server.post(path, body, content_type=content_type), status)
            except Mismatch as exc:
                raise Mismatch(f"{path} with {_short(body)}: {exc}") from exc
        if self._has_keys():
            answered(self.server.post("/ask", {"question": "x"}, with_key=False), 401)
        return f"{len(cases)} wrong requests refused"

    def every_route(self) -> str:
        """Whatever the server describes was asked by one of the checks above."""
        missed = _routes(self.expected.openapi) - {(m, re.sub(r":path}", "}", p)) for m, p in self.server.asked}
        holds(f"not asked: {sorted(missed)}", not missed)
        return f"{len(_routes(self.expected.openapi))} of {len(_routes(self.expected.openapi))}"

    # --- parts ---

    def _ids(self) -> list[list[int]]:
        return self.expected.token_ids(self.info["engine"]["name"])

    def _length(self) -> dict[str, int]:
        lengths = {item["max_new_tokens"] for item in self.items}
        holds(f"the golden questions have different lengths {sorted(lengths)}", len(lengths) == 1)
        return {"max_new_tokens": lengths.pop()}

    def _question(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"question": item["question"], "max_new_tokens": item["max_new_tokens"]}

    def _chat(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": self.first["question"]}]
        return {"model": self.info["model"], "messages": messages, "max_tokens": self.first["max_new_tokens"]}

    def _completion(self) -> dict[str, Any]:
        text = self.expected.prompt["template"].replace("{{question}}", self.first["question"])
        return {"model": self.info["model"], "prompt": text, "max_tokens": self.first["max_new_tokens"]}

    def _check_text(self, item: dict[str, Any], found: str) -> None:
        if self._ids()[self.items.index(item)] == item["token_ids"]:
            same(f"answer of {item['question']!r}", found.strip(), item["answer"].strip())

    def _check_continued(self, found: str) -> None:
        """The rendered prompt, continued as it stands, is the answer; with joined turns the texts differ."""
        if self.expected.prompt["turn_format"] == "plain":
            self._check_text(self.first, found)

    def _has_keys(self) -> bool:
        return self.server.get("/model/info", with_key=False).status == 401


def _changes_something(method: str, path: str) -> bool:
    return path.startswith("/admin/") or (path.startswith("/prompts") and method != READS)


def _filled_in(path: str) -> str:
    return re.sub(r"{[^}]*}", "any", path)


def _routes(openapi: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, what in openapi["paths"].items() for method in what if method in METHODS}


def checks_of(questions: Questions) -> list[tuple[str, Callable[[], str]]]:
    """In order: who answers comes first, whether everything was asked comes last."""
    return [
        ("GET /model/info", questions.identity), ("GET /health ...", questions.health),
        ("GET /openapi.json", questions.openapi), ("GET / /docs", questions.pages),
        ("POST /invocations", questions.invocations), ("POST /invocations, CSV", questions.invocations_csv),
        ("POST /ask", questions.ask), ("POST /ask/batch", questions.ask_batch),
        ("POST /ask/stream", questions.ask_stream), ("GET /v1/models", questions.models),
        ("POST /v1/chat/completions", questions.chat), ("  the same, streamed", questions.chat_stream),
        ("POST /v1/completions", questions.completions), ("  the same, streamed", questions.completions_stream),
        ("GET /ping /version", questions.mlflow), ("POST /feedback", questions.feedback),
        ("GET /metrics", questions.metrics), ("GET /prompts ...", questions.prompts),
        ("/admin/... /prompts/...", questions.closed),
        ("wrong requests", questions.refusals), ("every route was asked", questions.every_route),
    ]  # fmt: skip


def run(server: Server, expected: Expected, tell: Callable[[str], None]) -> dict[str, Any]:
    """Every check, a line for each; the result for programs."""
    questions, results, started = Questions(server, expected), [], time.perf_counter()
    for name, check in checks_of(questions):
        try:
            passed, detail = True, check()
        except Mismatch as exc:
            passed, detail = False, str(exc)
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as exc:
            passed, detail = False, f"no usable answer ({type(exc).__name__}: {exc})"
        results.append({"check": name, "passed": passed, "detail": detail})
        tell(f"{'ok  ' if passed else 'FAIL'}  {name:28} {detail}")
    return {
        "passed": all(result["passed"] for result in results),
        "seconds": round(time.perf_counter() - started, 3),
        "golden_answers": len(questions.answers),
        "golden_answers_sha256": hashlib.sha256(json.dumps(questions.answers).encode()).hexdigest(),
        "checks": results,
    }


def is_ready_within(server: Server, wait_s: float) -> bool:
    """Whether the server takes questions, now or within that time."""
    deadline = time.monotonic() + wait_s
    while not is_ready(server):
        if time.monotonic() >= deadline:
            return False
        time.sleep(ASK_AGAIN_S)
    return True


def is_ready(server: Server) -> bool:
    """Whether the server takes questions now."""
    try:
        return server.get("/health/ready", with_key=False).status == 200
    except (OSError, http.client.HTTPException):
        return False


def key_from(env: os._Environ[str]) -> str:
    """The first key of the environment, an admin's where there is no caller's; empty where there is none."""
    keys = (key for name in ("API_KEYS", "ADMIN_KEYS") for key in _keys_from(env, name))
    return next(keys, "")


def _keys_from(env: os._Environ[str], name: str) -> list[str]:
    path = env.get(f"{name}_FILE")
    lines = Path(path).read_text("utf-8").splitlines() if path else []
    keys = [line.strip() for line in lines if not line.startswith("#")] + env.get(name, "").split(",")
    return [key.strip() for key in keys if key.strip()]


def main() -> int:
    """0 when everything is as recorded, 1 when something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    here = f"http://127.0.0.1:{os.environ.get('PORT') or 8000}"
    parser.add_argument("--url", help=f"the server's address (default: {here})")
    parser.add_argument("--ready", action="store_true", help="only say, by the exit code, whether it is ready")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="with --ready: for up to S seconds")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    given = parser.parse_args()
    if given.ready:  # a probe: no key
        return 0 if is_ready_within(Server(given.url or here), given.wait) else 1
    server = Server(given.url or here, key_from(os.environ))
    result = run(server, Expected.read(Path(__file__).parent), (lambda line: None) if given.json else print)
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        wrong = sum(not check["passed"] for check in result["checks"])
        print(f"{wrong} of {len(result['checks'])} checks failed" if wrong else "Everything is as recorded.")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
