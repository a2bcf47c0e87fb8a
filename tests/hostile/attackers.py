"""The attacks themselves, one function each. Each ends by itself and returns what came of it.

A program, so that it takes no time from those who measure: `python attackers.py PORT KEY NAME` calls the function of
that name with the arguments in the JSON of its standard input, and prints its `Outcome`. Only loopback, only the
standard library. Does not know what the server should answer.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import resource
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from texts import Bad, bad_requests

HOST = "127.0.0.1"
TIMEOUT_S = 60.0
CONNECT_PER_S = 2500  # new connections; more at once would measure the kernel's queue
OPEN_WITHIN_S = 15.0  # all of them; the rest is given up
LEAVERS_PER_S = 100
NICE = 10  # in life an attacker has a machine of its own
LONGEST = {"max_new_tokens": 1024, "temperature": 5.0}  # an answer as long as the model's window
LEFT = "left"
GONE = ("ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected")  # what a server that ended leaves


@dataclass
class Outcome:
    """What the attackers saw."""

    answers: Counter[str] = field(default_factory=Counter)  # status, or what went wrong -> how often
    slowest_s: float = 0.0  # of an answer
    detail: str = ""

    def add(self, status: str, seconds: float) -> None:
        self.answers[status] += 1
        self.slowest_s = max(self.slowest_s, seconds)


@dataclass(frozen=True)
class Target:
    """The server under attack."""

    port: int
    key: str

    def connect(self, timeout_s: float = TIMEOUT_S) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout_s)

    def head(self, method: str, path: str, length: int, content_type: str = "application/json") -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{self.port}", f"X-API-Key: {self.key}"]
        lines += [f"Content-Type: {content_type}", f"Content-Length: {length}", "", ""]
        return "\r\n".join(lines).encode()

    def post(self, path: str, body: bytes, content_type: str = "application/json", timeout_s: float = TIMEOUT_S) -> str:
        """The status, or what went wrong."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        try:
            connection.request("POST", path, body, {"Content-Type": content_type, "X-API-Key": self.key})
            response = connection.getresponse()
            response.read()
            return str(response.status)
        except (OSError, http.client.HTTPException) as exc:
            return type(exc).__name__
        finally:
            connection.close()


# --- much work in one request -------------------------------------------------------------------


def rows(target: Target, count: int, leaves_after_s: float = 0.0, form: str = "json") -> Outcome:
    """One /invocations with so many rows; its caller leaves, or waits for the answer."""
    if form == "csv":
        body, content_type = b"question\n" + b"a\n" * count, "text/csv"
    else:
        body, content_type = json.dumps({"inputs": ["a"] * count}, separators=(",", ":")).encode(), "application/json"
    return _at_once(1, lambda _: _sent(target, "/invocations", body, content_type, leaves_after_s))


def body(target: Target, path: str, content: str, content_type: str) -> Outcome:
    """One request with this body, in base64."""
    return _at_once(1, lambda _: _sent(target, path, base64.b64decode(content), content_type, 0.0))


def columns(target: Target, count: int, callers: int, leaves_after_s: float, form: str) -> Outcome:
    """/invocations with one row of so many columns, from so many callers at once, who leave."""
    if form == "csv":
        content, content_type = b"question" + b"," * (count - 1) + b"\na" + b"," * (count - 1) + b"\n", "text/csv"
    else:
        split = {"columns": ["question", *map(str, range(count - 1))], "data": [["a", *[1] * (count - 1)]]}
        content, content_type = json.dumps({"dataframe_split": split}).encode(), "application/json"
    return _at_once(callers, lambda _: _sent(target, "/invocations", content, content_type, leaves_after_s))


def _sent(target: Target, path: str, body: bytes, content_type: str, leaves_after_s: float) -> str:
    """The status, or what went wrong; with `leaves_after_s` not 0 the caller leaves after that time."""
    with target.connect(leaves_after_s or TIMEOUT_S) as connection:
        try:
            connection.sendall(target.head("POST", path, len(body), content_type) + body)
            answer = connection.recv(4096)
            return answer.split(b" ", 2)[1].decode() if answer else "no answer"
        except TimeoutError:
            return LEFT
        except OSError as exc:
            return type(exc).__name__


def batches(target: Target, size: int, callers: int = 1) -> Outcome:
    """/ask/batch of that size with the longest answers, from so many callers at once."""
    questions = json.dumps({"questions": [{"question": "a", **LONGEST}] * size}).encode()
    return _at_once(callers, lambda _: target.post("/ask/batch", questions))


def texts_of_a_megabyte(target: Target, rounds: int = 1) -> Outcome:
    """One question of 1 MB on every route that takes a text, all routes at once: words, one long word, emoji."""
    bodies = [
        (path, json.dumps(make(text), ensure_ascii=False).encode()[:1_000_000])
        for text in ("word " * 199_900, "a" * 999_500, "🙂" * 249_800)
        for path, make in _ONE_TEXT.items()
    ] * rounds
    return _at_once(len(bodies), lambda number: target.post(*bodies[number]))


_ONE_TEXT: dict[str, Callable[[str], dict]] = {
    "/ask": lambda text: {"question": text},
    "/ask/stream": lambda text: {"question": text},
    "/v1/completions": lambda text: {"model": "langchain-e2e-model", "prompt": text},
    "/v1/chat/completions": lambda text: {
        "model": "langchain-e2e-model",
        "messages": [{"role": "user", "content": text}],
    },
    "/invocations": lambda text: {"inputs": [text]},
    "/feedback": lambda text: {"request_id": "a", "comment": text},
}


def nested(target: Target) -> Outcome:
    """JSON that is nested as deep as the body allows, and a number as long, on every route that reads JSON."""
    deep = b"[" * 499_000 + b"]" * 499_000
    bodies = [deep, b'{"question": %s}' % deep, b'{"inputs": %s}' % deep, b'{"question": %s}' % (b"9" * 999_000)]
    pairs = [(path, content) for path in _ONE_TEXT for content in bodies]
    return _at_once(len(pairs), lambda number: target.post(*pairs[number]))


def every_text(target: Target) -> Outcome:
    """Texts that break programs, in every field of every route; `detail` names the places that answered 5xx or not."""
    connection = http.client.HTTPConnection(HOST, target.port, timeout=TIMEOUT_S)
    connection.request("GET", "/openapi.json", headers={"X-API-Key": target.key})
    bad = list(bad_requests(json.loads(connection.getresponse().read())))
    connection.close()
    outcome, failed = Outcome(), Counter[str]()
    for request in bad:
        began = time.monotonic()
        status = _bad_status(target, request)
        outcome.add(status, time.monotonic() - began)
        if not status.isdigit() or status >= "500":
            failed[f"{status} {request.method} {request.path[:40]} {request.place}"] += 1
    outcome.detail = "; ".join(failed)
    return outcome


def _bad_status(target: Target, request: Bad) -> str:
    """Written by hand: clients of the standard library refuse to send such headers."""
    headers = {"Host": f"{HOST}:{target.port}".encode(), "X-API-Key": target.key.encode(), "Connection": b"close"}
    headers |= {"Content-Length": str(len(request.body)).encode(), **request.headers}
    lines = [f"{request.method} {request.path} HTTP/1.1".encode()]
    lines += [name.encode() + b": " + value for name, value in headers.items()]
    try:
        with target.connect() as connection:
            connection.sendall(b"\r\n".join([*lines, b"", request.body]))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as exc:
        return type(exc).__name__
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/") else "no answer"


# --- many callers ---------------------------------------------------------------------------------


def askers(target: Target, callers: int, seconds: float, longest: bool = False) -> Outcome:
    """So many callers, each asking one question after the other."""
    question = {"question": "What is overfitting?", **(LONGEST if longest else {"temperature": 0})}
    asked, end, outcome, lock = json.dumps(question).encode(), time.monotonic() + seconds, Outcome(), threading.Lock()

    def run(_: int) -> None:
        while (began := time.monotonic()) < end:
            status = target.post("/ask", asked)
            with lock:
                outcome.add(status, time.monotonic() - began)
            if status in GONE:
                return
            if status != "200":
                time.sleep(0.1)

    _threads(callers, run)
    return outcome


def turns(target: Target, row_callers: int, rows_each: int, callers: int, seconds: float) -> Outcome:
    """Callers with many rows and callers with one question, all at once and again and again."""
    outcome, end = Outcome(), time.monotonic() + seconds
    many = json.dumps({"inputs": ["What is overfitting?"] * rows_each}).encode()
    lock = threading.Lock()

    def score(_: int) -> None:
        while (began := time.monotonic()) < end:
            status = target.post("/invocations", many, timeout_s=end + 10 - began)
            with lock:
                outcome.add(f"rows {status}", time.monotonic() - began)
            time.sleep(0.0 if status == "200" else 0.2)

    scoring = threading.Thread(target=_threads, args=(row_callers, score))
    scoring.start()
    asked = askers(target, callers, seconds)
    scoring.join()
    outcome.detail = f"slowest question {asked.slowest_s:.1f} s"
    outcome.answers.update(asked.answers)
    outcome.slowest_s = max(outcome.slowest_s, asked.slowest_s)
    return outcome


def reloads(target: Target, bodies: list[dict], count: int, callers: int = 1, seconds: float = 80.0) -> Outcome:
    """/admin/reload with these bodies in turn until so many have been done; `target.key` opens it."""
    outcome, lock, end = Outcome(), threading.Lock(), time.monotonic() + seconds

    def run(_: int) -> None:
        while (done := outcome.answers["200"]) < count and (began := time.monotonic()) < end:
            status = target.post("/admin/reload", json.dumps(bodies[done % len(bodies)]).encode())
            with lock:
                outcome.add(status, time.monotonic() - began)
            if status != "200":
                time.sleep(0.2)

    _threads(callers, run)
    return outcome


def signed(target: Target, path: str, body: str, headers: dict[str, str], times: int) -> Outcome:
    """The same signed request so many times at once."""

    def send(_: int) -> str:
        connection = http.client.HTTPConnection(HOST, target.port, timeout=TIMEOUT_S)
        connection.request("POST", path, body, headers)
        return str(connection.getresponse().status)

    return _at_once(times, send)


def feedback(target: Target, callers: int, seconds: float) -> Outcome:
    """Callers that ask and judge the answer, again and again."""
    outcome, lock, end = Outcome(), threading.Lock(), time.monotonic() + seconds
    judged = json.dumps({"request_id": "a" * 32, "value": 1, "comment": "x" * 4000}).encode()
    question = json.dumps({"question": "What is overfitting?"}).encode()

    def run(_: int) -> None:
        while time.monotonic() < end:
            for path, content in (("/ask", question), ("/feedback", judged)):
                began = time.monotonic()
                status = target.post(path, content)
                with lock:
                    outcome.add(f"{path} {status}", time.monotonic() - began)

    _threads(callers, run)
    return outcome


def _at_once(callers: int, ask: Callable[[int], str], times: int = 1) -> Outcome:
    outcome, lock = Outcome(), threading.Lock()

    def run(number: int) -> None:
        for _ in range(times):
            began = time.monotonic()
            status = ask(number)
            with lock:
                outcome.add(status, time.monotonic() - began)

    _threads(callers, run)
    return outcome


def _threads(count: int, run: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- connections that take their time -------------------------------------------------------------


def held(target: Target, connections: int, seconds: float, sent: str = "") -> Outcome:
    """So many connections at the same time that send this much and then nothing."""
    with _Opened(target, connections, sent.encode()) as opened:
        opened.keep_for(seconds)
    return opened.outcome


def slow_bodies(target: Target, connections: int, seconds: float) -> Outcome:
    """Requests whose bodies come a byte a second."""
    with _Opened(target, connections, target.head("POST", "/ask", 1000)) as opened:
        opened.keep_for(seconds, lambda: b" ")
    return opened.outcome


def slow_readers(target: Target, connections: int, seconds: float, longest: bool = False) -> Outcome:
    """Streams that nobody reads, over sockets that hold as little as they can."""
    content = json.dumps({"question": "What is overfitting?", **(LONGEST if longest else {})}).encode()
    with _Opened(target, connections, target.head("POST", "/ask/stream", len(content)) + content, 1024) as opened:
        opened.keep_for(seconds, reads=False)
    return opened.outcome


def early_leavers(target: Target, count: int) -> Outcome:
    """Streams whose callers leave before the first token, one after the other."""
    content = json.dumps({"question": "a", **LONGEST}).encode()
    request, outcome = target.head("POST", "/ask/stream", len(content)) + content, Outcome()
    for _ in range(count):
        began = time.monotonic()
        with target.connect() as connection:
            connection.sendall(request)
        outcome.add(LEFT, time.monotonic() - began)
        time.sleep(1 / LEAVERS_PER_S)
    return outcome


class _Opened:
    """Many connections that are open at the same time; what the server answered, and how many it closed."""

    def __init__(self, target: Target, connections: int, sent: bytes, receive_buffer: int = 0):
        self._target, self._count, self._sent, self._buffer = target, connections, sent, receive_buffer
        self._sockets: list[socket.socket] = []
        self._ended = 0  # by the server
        self.outcome = Outcome()

    def __enter__(self) -> _Opened:
        began = time.monotonic()
        for number in range(self._count):
            if (early_s := number / CONNECT_PER_S - (time.monotonic() - began)) > 0:
                time.sleep(early_s)
            if time.monotonic() - began > OPEN_WITHIN_S:
                self.outcome.answers["never opened"] = self._count - number
                break
            self._open()
        self.outcome.slowest_s = time.monotonic() - began
        return self

    def _open(self) -> None:
        connection = socket.socket()
        connection.settimeout(OPEN_WITHIN_S)
        if self._buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        try:
            connection.connect((HOST, self._target.port))
            connection.sendall(self._sent)
            connection.setblocking(False)
        except OSError as exc:
            self.outcome.answers[type(exc).__name__] += 1
            connection.close()
            return
        self._sockets.append(connection)

    def keep_for(self, seconds: float, drip: Callable[[], bytes] | None = None, *, reads: bool = True) -> None:
        """Send `drip()` on each once a second, and read what comes where `reads`."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for connection in self._sockets:
                selector.register(connection, selectors.EVENT_READ)
            while (left_s := end - time.monotonic()) > 0:
                time.sleep(min(1.0, left_s))
                if reads:
                    self._read([key.fileobj for key, _ in selector.select(0)], selector)
                if drip:
                    self._send(drip(), [key.fileobj for key in selector.get_map().values()])

    def _read(self, ready: Iterable[socket.socket], selector: selectors.BaseSelector) -> None:
        for connection in ready:
            try:
                answer = connection.recv(4096)
            except OSError:
                answer = b""
            status = answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/") else "closed by the server"
            self.outcome.answers[status] += 1
            self._ended += 1
            selector.unregister(connection)

    def _send(self, data: bytes, connections: Iterable[socket.socket]) -> None:
        for connection in connections:
            try:
                connection.send(data)
            except OSError:
                continue  # the server has closed it, which is read in a second

    def __exit__(self, *_: object) -> None:
        self.outcome.answers["held"] = len(self._sockets) - self._ended
        for connection in self._sockets:
            connection.close()


ATTACKS = {
    function.__name__: function
    for function in (
        rows, columns, body, batches, texts_of_a_megabyte, nested, every_text, askers, turns, reloads, signed, feedback,
        held, slow_bodies, slow_readers, early_leavers,
    )
}  # fmt: skip


def main(port: int, key: str, name: str, arguments: str) -> None:
    os.nice(NICE)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    outcome = ATTACKS[name](Target(port, key), **json.loads(arguments))
    sys.stdout.write(json.dumps(vars(outcome)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.stdin.read())
