"""A judge that speaks OpenAI's chat completions: says yes unless the text "Three." is under judgement."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Judge(BaseHTTPRequestHandler):
    """Says yes unless the answer under judgement is "Three."; `status` and `content` of the server override."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        said = "no" if "Three." in json.dumps(body["messages"]) else "yes"
        content = self.server.content or json.dumps({"result": said, "rationale": "because"})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "judge", "choices": [choice]}
        data = json.dumps(answer | {"usage": usage}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def judging(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """The judge on a port of its own, named in OpenAI's variables; what it was asked is in `asked`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    server.asked, server.status, server.content = [], 200, None
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    for name, value in (("OPENAI_API_KEY", "any"), ("OPENAI_BASE_URL", address), ("OPENAI_API_BASE", address)):
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
