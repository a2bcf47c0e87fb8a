"""Stage `import-feedback`: a server's ledger onto the traces it belongs to, and feedback as cases.

The trace itself says what was imported (each assessment has its entry's id), so that a run that was killed anywhere
is simply run again. Servers put feedback there themselves, and leave the same id: what they have not, because MLflow
was away or they were restarted, is what is left to do here. The list of entries that were looked up before, below the
staging folder, only saves time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from genai_lifecycle.config import FEEDBACK_FILE, FORMER_FEEDBACK_FILE, E2EConfig
from genai_lifecycle.errors import StorageFailed, TrackingUnavailable
from genai_lifecycle.monitoring import feedback_cases
from genai_lifecycle.monitoring.feedback_cases import FeedbackCases
from genai_lifecycle.monitoring.feedback_ledger import Entry, LedgerContent, read_ledger
from genai_lifecycle.runtime import progress
from genai_lifecycle.runtime.atomic_write import write_whole
from genai_lifecycle.runtime.lock import only_run
from genai_lifecycle.settings import Settings, setting
from genai_lifecycle.store import served
from genai_lifecycle.store.served import ServedRequest, StoredFeedback
from genai_lifecycle.store.tracking_store import Store


@dataclass(frozen=True)
class ImportFeedbackSettings(Settings):
    """Whether feedback becomes cases too."""

    to_cases: Path | None = setting(
        None, "write the questions that people judged as cases for evaluate, into a new file", metavar="FILE"
    )
    days: int = setting(7, "--to-cases: how many days back", metavar="N", limits=(1, 3650))
    overwrite: bool = setting(False, "--to-cases: replace the file")


@dataclass(frozen=True)
class FeedbackImport:
    """What `--mode import-feedback` did with a server's ledger."""

    ledger: str
    entries: int
    imported: int
    before: int  # were on their trace already
    without_trace: tuple[str, ...]  # request ids
    unreadable: tuple[str, ...]  # sentences
    is_half_written: bool  # the last line: it is left for next time
    cases_file: str | None = None  # None: no cases were asked for, or there were none
    cases: int = 0
    cases_left_out: Mapping[str, int] = field(default_factory=dict)  # why -> how many
    refused: tuple[str, ...] = ()  # request ids of what MLflow does not take


log = logging.getLogger(__name__)

FOLDER = "feedback"  # below the staging folder
ON_TRACE, NO_TRACE, REFUSED = "on trace", "no trace", "refused"
_SETTLED_MS = 24 * 3_600_000  # a trace that is not there a day later will not come
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Looked:
    """What came of one entry."""

    entry: Entry
    outcome: str  # ON_TRACE | NO_TRACE | REFUSED
    is_new: bool  # attached just now


def import_feedback(config: E2EConfig, store: Store, settings: ImportFeedbackSettings) -> FeedbackImport:
    """Attach each entry of the ledger to its trace, once; with `settings.to_cases`, write feedback as cases.

    Raises:
        StorageFailed: the ledger cannot be read, or the case file not be written.
        ConfigError: the case file is there already, and `settings.overwrite` is off.
        Busy: another process imports feedback with the same staging folder.
        TrackingUnavailable: the store stopped answering; what was attached stays, and is not attached again.
    """
    if settings.to_cases:
        feedback_cases.require_free(settings.to_cases, overwrite=settings.overwrite)
    with only_run(config.staging_dir / FOLDER):
        is_usual = config.feedback_file == FEEDBACK_FILE
        content = read_ledger(config.feedback_file, FORMER_FEEDBACK_FILE if is_usual else None)
        experiment = served.experiment_id(config.serving_experiment)
        looked = _import(config, store, content, experiment)
    result = _result(config, content, looked)
    return _with_cases(settings, result, looked, experiment) if settings.to_cases else result


def _import(config: E2EConfig, store: Store, content: LedgerContent, experiment: str | None) -> list[Looked]:
    if experiment is None:
        return [Looked(entry, NO_TRACE, False) for entry in content.entries]
    memory = _memory_file(config, store, experiment)
    known = _remembered(memory)
    looked = []
    with progress.steps("Importing feedback", max(1, len(content.entries))) as advance:
        for entry in content.entries:
            looked.append(_look(entry, known.get(entry.id), experiment))
            advance(1)
    _remember(memory, looked)
    return looked


def _look(entry: Entry, known: str | None, experiment: str) -> Looked:
    if known:
        return Looked(entry, known, False)
    found = served.trace_of(experiment, entry.request_id)
    if found is None:
        return Looked(entry, NO_TRACE, False)
    trace_id, there = found
    if any(_is_same(entry, said) for said in there):
        return Looked(entry, ON_TRACE, False)
    said = StoredFeedback(entry.name, entry.value, entry.comment, entry.source, entry.id)
    try:
        served.attach(trace_id, said, entry.time_ms)
    except (TrackingUnavailable, StorageFailed):
        raise
    except Exception:  # whatever is wrong with one entry, the others are to be attached
        log.debug("refused: %s", entry.id, exc_info=True)
        return Looked(entry, REFUSED, False)
    return Looked(entry, ON_TRACE, True)


def _is_same(entry: Entry, said: StoredFeedback) -> bool:
    """Imported before, by us or the server; or the same was said twice, as a caller does who got no answer."""
    if said.entry_id == entry.id:
        return True
    return (said.name, said.value, said.comment, said.source) == (entry.name, entry.value, entry.comment, entry.source)


# --- what was looked up before --------------------------------------------------------------------


def _memory_file(config: E2EConfig, store: Store, experiment: str) -> Path:
    """One for each ledger and store."""
    identity = f"{config.feedback_file.resolve()}\n{store.uri}\n{experiment}"
    return config.staging_dir / FOLDER / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _remembered(file: Path) -> dict[str, str]:
    try:
        return json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _remember(file: Path, looked: Sequence[Looked]) -> None:
    """The entries that need no second look; those that have left the ledger are forgotten."""
    now_ms = time.time() * 1000
    settled = {
        item.entry.id: item.outcome
        for item in looked
        if item.outcome == ON_TRACE or now_ms - item.entry.time_ms > _SETTLED_MS
    }
    write_whole(file, json.dumps(settled))


# --- result ---------------------------------------------------------------------------------------


def _result(config: E2EConfig, content: LedgerContent, looked: Sequence[Looked]) -> FeedbackImport:
    missing = tuple(item.entry.request_id for item in looked if item.outcome == NO_TRACE)
    imported = sum(item.is_new for item in looked)
    refused = tuple(item.entry.request_id for item in looked if item.outcome == REFUSED)
    before = len(looked) - imported - len(missing) - len(refused)
    return FeedbackImport(
        str(config.feedback_file), len(content.entries), imported, before, missing, content.unreadable,
        content.is_half_written, refused=refused,
    )  # fmt: skip


def _with_cases(
    settings: ImportFeedbackSettings, result: FeedbackImport, looked: Sequence[Looked], experiment: str | None
) -> FeedbackImport:
    """Cases from the feedback of the last days, and from all that was attached just now."""
    now_ms = int(time.time() * 1000)
    new_ms = [item.entry.time_ms - _DAY_MS for item in looked if item.is_new]
    since_ms = max(0, min([now_ms - settings.days * _DAY_MS, *new_ms]))
    found = feedback_cases.cases_of(_judged(experiment, since_ms, now_ms)) if experiment else FeedbackCases((), {})
    if found.cases:
        feedback_cases.write_cases(settings.to_cases, found)
    written = str(settings.to_cases) if found.cases else None
    return replace(result, cases_file=written, cases=len(found.cases), cases_left_out=found.left_out)


def _judged(experiment: str, start_ms: int, end_ms: int) -> Iterator[ServedRequest]:
    with closing(served.pages(experiment, start_ms, end_ms)) as pages:
        for page in pages:
            yield from (request for request in page if request.feedback)
