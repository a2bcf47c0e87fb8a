"""Errors that a caller may see, each with its HTTP status, and the settings error that stops a start."""

from __future__ import annotations


class SettingsError(ValueError):
    """An environment variable has a wrong value; the message names it."""


class ServerError(Exception):
    """`message` says what happened, `hint` what to do next."""

    status = 500

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message, self.hint = message, hint


class BadQuestion(ServerError):
    """The model refused the question or a parameter."""

    status = 400


class NotReady(ServerError):
    """The model is still loading."""

    status = 503


class EngineDown(ServerError):
    """The engine ended under the question, or is being started afresh."""

    status = 503


class Overloaded(ServerError):
    """Too many questions wait already."""

    status = 429
