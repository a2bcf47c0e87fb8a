"""One run at a time on one store, whatever route leads there: its database itself, or an MLflow server over it.

The lock is a lease in the store, as a tag of an experiment; a thread renews it. How leases work is in
`genai_server/registry/lease.py`.
"""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from genai_lifecycle.errors import Busy, LifecycleError, NotFound
from genai_lifecycle.store.seam import seam
from genai_server.registry.lease import PREFIX, Lease, LeaseTaken

log = logging.getLogger(__name__)

HOLD_S = 120.0  # after which a run that was killed on another machine no longer counts
RENEW_S = 20.0
PATIENCE_S = 1.0  # for two that begin in the same moment
_HINT = "Wait until it has ended. One that was killed holds nobody up on its own machine, and others for two minutes."


@contextmanager
def only_run_on(uri: str) -> Iterator[None]:
    """Hold the lock of the store at `uri`, which is there and has an experiment.

    Raises:
        Busy: another run has it, or has taken it from us because nothing was heard of us for two minutes.
        TrackingUnavailable: the store does not answer.
    """
    lease = Lease(_Experiments(uri), HOLD_S)
    try:
        lease.take(PATIENCE_S)
    except LeaseTaken as exc:
        raise Busy(f"Another run ({exc}) works on this store.", hint=_HINT) from exc
    for key in list(lease.abandoned):
        lease.forget(key)
    renewal = _Renewal(lease)
    try:
        yield
    except KeyboardInterrupt:
        if renewal.lost:
            raise Busy("Another run took over this store, because nothing was heard of this one.", hint=_HINT) from None
        raise
    finally:
        renewal.stop()
        lease.leave()


class _Renewal:
    """A thread that renews the lease, and ends the run by a Ctrl-C of its own where it is lost."""

    def __init__(self, lease: Lease):
        self._lease, self._ended = lease, threading.Event()
        self.lost = False
        self._thread = threading.Thread(target=self._run, name="store-lock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self.lost = not self._lease.renew()
            except LifecycleError as exc:  # it may answer again the next time; the run itself will tell
                log.debug("the lock was not renewed: %s", exc)
            if self.lost:
                _thread.interrupt_main()
                return


class _Experiments:
    """The tags of all experiments as one: a lease may be on any of them, so none has to be there for ever."""

    def __init__(self, uri: str):
        self._uri = uri
        self._places: dict[str, str] = {}  # key -> experiment

    @seam
    def tags(self) -> Mapping[str, str]:
        leases: dict[str, str] = {}
        for experiment in self._every():
            for key, value in experiment.tags.items():
                if key.startswith(PREFIX) and value:
                    leases[key], self._places[key] = value, experiment.experiment_id
        return leases

    @seam
    def set_tag(self, key: str, value: str) -> None:
        self._client().set_experiment_tag(self._places.setdefault(key, self._place()), key, value)

    @seam
    def delete_tag(self, key: str) -> None:
        """An older server has no way to do that; an empty one says as much."""
        from mlflow.exceptions import MlflowException

        try:
            self._client().delete_experiment_tag(self._places[key], key)
        except MlflowException as exc:
            if exc.error_code == "ENDPOINT_NOT_FOUND":
                self._client().set_experiment_tag(self._places[key], key, "")
            elif exc.error_code != "RESOURCE_DOES_NOT_EXIST":  # somebody was faster
                raise

    def _place(self) -> str:
        """The oldest experiment."""
        oldest = min(self._every(), key=lambda experiment: experiment.creation_time or 0, default=None)
        if oldest is None:
            raise NotFound(
                "Every experiment of this store is in MLflow's trash.", hint="Restore one in MLflow's UI, or make one."
            )
        return oldest.experiment_id

    def _every(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client().search_experiments(max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(self._uri, self._uri)
