"""What goes wrong in answering, as MLflow's exceptions, so that every MLflow client gets the right status."""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE


def bad_input(message: str) -> MlflowException:
    """The caller's fault: served as a 400."""
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


class EngineFailed(MlflowException):
    """The engine ended or stalled under a request: served as a 500. The request may be sent again."""

    def __init__(self, message: str):
        super().__init__(message, error_code=INTERNAL_ERROR)
