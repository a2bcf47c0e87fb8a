"""Errors that a caller may see, each with its HTTP status and its code for programs, and those that stop the start.

How an error is written depends on who asks: `problems.py`.
"""

from __future__ import annotations


class SettingsError(ValueError):
    """An environment variable has a wrong value; the message names it."""


class NoStore(Exception):
    """The model is to be looked up in an MLflow store that is not there; `message` and `hint` are one sentence each."""

    def __init__(self, message: str, hint: str):
        super().__init__(f"{message} {hint}")


class ServerError(Exception):
    """`message` says what happened, `hint` what to do next."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, hint: str = "", *, param: str | None = None):
        super().__init__(message)
        self.message, self.hint, self.param = message, hint, param

    @property
    def sentence(self) -> str:
        return f"{self.message} {self.hint}".strip()


class BadQuestion(ServerError):
    """The model refused the question or a parameter."""

    status, code = 400, "invalid_request"


class UnknownHost(ServerError):
    """The Host header names another host."""

    status, code = 400, "unknown_host"


class Unauthorized(ServerError):
    """No key, or a wrong one."""

    status, code = 401, "invalid_api_key"


class WrongSignature(ServerError):
    """A webhook that is not signed with our secret, or not now."""

    status, code = 401, "invalid_signature"


class Forbidden(ServerError):
    """An admin key is needed: the caller's is none, or the server has none."""

    status, code = 403, "forbidden"


class UnknownModel(ServerError):
    """A model was named that does not answer here."""

    status, code = 404, "model_not_found"


class UnknownPrompt(ServerError):
    """A prompt, version or alias was named that the registry does not have."""

    status, code = 404, "prompt_not_found"


class NoRegistry(ServerError):
    """This server has no prompt registry."""

    status, code = 409, "no_registry"


class Conflict(ServerError):
    """The state of the server does not allow it, such as a reload during another one."""

    status, code = 409, "conflict"


class TooLarge(ServerError):
    """The request's body is larger than the server takes, or has too many questions."""

    status, code = 413, "request_too_large"


class Overloaded(ServerError):
    """Too many questions wait already."""

    status, code = 429, "overloaded"


class ClientDisconnected(ServerError):
    """The caller closed the connection before the answer; nobody reads this, the log does (nginx's status)."""

    status, code = 499, "caller_left"


class ModelFailed(ServerError):
    """A model that is not ours raised something, or gave no answer."""

    status, code = 500, "model_failed"


class ModelTimeout(ServerError):
    """A model that is not ours did not answer in time."""

    status, code = 504, "model_timeout"


class NotReady(ServerError):
    """The model is still loading."""

    status, code = 503, "not_ready"


class RegistryDown(ServerError):
    """MLflow's registry does not answer."""

    status, code = 503, "registry_down"


class StorageFailed(ServerError):
    """The server cannot store what it was sent."""

    status, code = 503, "storage_failed"


class EngineDown(ServerError):
    """The engine ended during the question, or is being restarted."""

    status, code = 503, "engine_down"
