"""A running server of this project, asked over HTTP: who answers, and what it answers. Compares nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from genai_lifecycle.errors import ConfigError, ServerFailed
from genai_lifecycle.runtime.addresses import without_password

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5.0, 120.0
TOLD = ("model", "model_uri", "model_version", "model_alias", "run_id", "prompt", "weights_sha256")  # of /model/info


def first_key(env: Mapping[str, str] = os.environ) -> str:
    """The first key of API_KEYS, the variable that gives the server its keys; "" where there is none."""
    return env.get("API_KEYS", "").split(",")[0].strip()


def new_client(url: str, key: str) -> httpx.Client:
    """For a server of this project. Raises ConfigError where the address or the key is none."""
    import httpx

    try:
        return httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy of the environment is for other hosts than the one that is named here
        )
    except (httpx.InvalidURL, UnicodeEncodeError) as exc:
        raise ConfigError(
            f"{without_password(url)!r} is no address, or the key is not plain ASCII.", hint=_ADDRESS
        ) from exc


class RunningServer:
    """The server at `url`. As a context manager it is let go at the end of the block.

    Args:
        url: http://HOST:PORT, with a path where a proxy puts it below one.
        key: one of its keys; "" for a server without.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, url: str, key: str = ""):
        self.url, self._has_key = without_password(url.rstrip("/")), bool(key)  # as it is shown
        self._client = new_client(url, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def info(self) -> dict[str, Any]:
        """Who answers. Raises ServerFailed: nobody does, a key is missing, it is not ready, or it is none of ours."""
        told = self._sent("GET", "/model/info", None)
        if not isinstance(told, dict) or not told.keys() >= {*TOLD, "engine"} or not isinstance(told["engine"], dict):
            raise self._not_ours("GET /model/info says something else than a server of this project")
        return told

    def token_ids(self, question: str, max_new_tokens: int) -> list[int]:
        """Of the greedy answer. Raises ServerFailed as `info` does."""
        body = {"inputs": [{"question": question}], "params": {"max_new_tokens": max_new_tokens}}
        given = self._sent("POST", "/invocations", body)
        try:
            return list(given["predictions"][0]["token_ids"])
        except (KeyError, IndexError, TypeError) as exc:
            raise self._not_ours("POST /invocations answers without token ids") from exc

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import httpx

        try:
            response = self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ServerFailed(f"No server answers at {self.url} ({type(exc).__name__}).", hint=_START) from exc
        try:
            said = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            said = None
        if response.status_code != 200:
            raise self._refused(method, path, response.status_code, _detail(said))
        return said

    def _refused(self, method: str, path: str, status: int, detail: str) -> ServerFailed:
        if status == 401:
            what = "refuses the key in API_KEYS" if self._has_key else "needs a key"
            return ServerFailed(f"The server at {self.url} {what}.", hint=KEY_HINT)
        if not detail:
            return self._not_ours(f"{method} {path} gave {status}")
        return ServerFailed(f"The server at {self.url} does not answer ({status}): {detail}", hint=_WAIT)

    def _not_ours(self, why: str) -> ServerFailed:
        return ServerFailed(f"{self.url} is no server of this project: {why}.", hint=_ADDRESS)


_ADDRESS = "Use http://HOST:PORT of fastapi_server.py or of a bundle's container."
_START = "Is it started, and is the address right? A bundle says it with ./run.sh --status."
KEY_HINT = "Set API_KEYS to one of its keys, in the environment of this command."
_WAIT = "See its log (./run.sh --logs), and GET /health/ready."


def _detail(said: Any) -> str:
    """The sentence of an error in our server's form (RFC 9457), or of MLflow's on its routes; "" for another's."""
    if not isinstance(said, dict):
        return ""
    if isinstance(said.get("detail"), str) and "code" in said:
        return said["detail"]
    return str(said.get("message", "")) if "error_code" in said else ""
