"""Kills this process before a call that changes MLflow's registry, whichever it is and whatever route it takes.

What is killed before a call that only reads is killed before the next one that changes something.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal

CHANGES = ("create_", "delete_", "rename_", "set_", "update_")


def kill_before(number: int) -> None:
    """Every registry call of MlflowClient passes one class; its change number `number` is not made any more."""
    from mlflow.tracking._model_registry.client import ModelRegistryClient

    calls: list[str] = []
    for name, method in inspect.getmembers(ModelRegistryClient, inspect.isfunction):
        if name.startswith(CHANGES):
            setattr(ModelRegistryClient, name, _killing(method, calls, number))


def _killing(method, calls: list[str], number: int):
    @functools.wraps(method)
    def call(*args, **kwargs):
        calls.append(method.__name__)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **kwargs)

    return call
