"""Attacks on a running server, and what every one of them has to keep: `make hostile` runs these and prints a table.

While an attack is under way the worst answer to a probe takes 0.25 s or less, and another caller's worst at most 2 s
more than when nobody attacks; afterwards the server holds no more memory than before. Most attacks share a server.
"""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile import live_server, report
from hostile.conftest import attack_with, parquet_body, watched
from hostile.live_server import ADMIN_KEY, SECRET, LiveServer, wait_until

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process alone is read from /proc"),
]

AFTER_S, AFTER_MOST_S = 1.0, 12.0  # others are watched after an attack too, until its work is done
REFUSED = {"400", "413", "415", "422", "429"}
ENGINE_FAILED = 19  # exit code of a server whose engine cannot be restarted
ERRORS = {"500", "503"}  # of a request whose engine was killed
GONE = {"ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected", "no answer"}  # the server has ended
ONE = {"callers": 1, "seconds": 0.01}  # question, to see whether it is answered
HALF_OPEN = "POST /ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Ty"


@pytest.fixture
def observed(alone, record):
    """A block with bystanders, and its row in the table."""

    @contextmanager
    def observe(server: LiveServer, attack: str, caller_more_s: float = report.CALLER_MORE_S) -> Iterator[report.Row]:
        row = report.Row(attack, "", alone, caller_more_s=caller_more_s)
        before = server.memory()
        with watched(server) as views:
            yield row
            ended = time.monotonic()
            is_idle = wait_until(server.is_idle, AFTER_MOST_S)
            after_s = time.monotonic() - ended
            time.sleep(max(0.0, AFTER_S - after_s))
        if not is_idle:
            row.broken = [*row.broken, f"{AFTER_MOST_S:.0f} s later it still works for the attackers"]
        row.during, row.memory = views(), (before, server.memory())
        record(row)

    return observe


@pytest.fixture
def attack(attacked, observed) -> Callable[..., dict]:
    """One of attackers.py on the shared server; its callers may get no other answers than `allowed`."""

    def run(title: str, name: str, allowed: set[str], key: str = live_server.KEY, **arguments) -> dict:
        server = attacked.recovered()
        with observed(server, title) as row:
            outcome = attack_with(server, name, arguments, key)
            happened(row, outcome, allowed)
        return outcome

    return run


def happened(row: report.Row, outcome: dict, allowed: set[str]) -> None:
    row.happened = f"{report.counted(outcome['answers'])}, slowest {outcome['slowest_s']:.1f} s"
    if outcome["detail"]:
        row.happened += f"; {outcome['detail'][:400]}"
    unexpected = {answer: count for answer, count in outcome["answers"].items() if count and answer not in allowed}
    if unexpected:
        row.broken = [f"the attackers got {report.counted(unexpected)}"]


# --- much work in one request ---------------------------------------------------------------------

UNPACKED_MIB = 300  # of a small body at most
MOST_JSON, MOST_CSV = 249_990, 499_990  # what a body of a million bytes holds


@pytest.mark.parametrize(
    ("rows", "leaves_after_s", "form"),
    [(8_000, 1, "json"), (30_000, 4, "json"), (MOST_JSON, 10, "json"), (MOST_CSV, 4, "csv")],
)
def test_one_request_with_many_rows(attack, rows, leaves_after_s, form):
    title = f"/invocations with {rows:,} rows ({form}), the caller leaves after {leaves_after_s} s"
    arguments = {"count": rows, "leaves_after_s": leaves_after_s, "form": form}
    attack(title, "rows", {"200", "left", *REFUSED}, **arguments)


@pytest.mark.parametrize(("columns", "form"), [(400_000, "csv"), (60_000, "json")])
def test_one_row_with_very_many_columns(attack, columns, form):
    title = f"/invocations with one row of {columns:,} columns ({form}), 8 at once, the callers leave after 4 s"
    arguments = {"count": columns, "callers": 8, "leaves_after_s": 4, "form": form}
    attack(title, "columns", {"200", "left", *REFUSED}, **arguments)


@pytest.mark.parametrize(("rows", "characters"), [(5_000_000, 1), (50_000, 20_000)])
def test_a_small_body_that_unpacks_to_much(attack, attacked, rows, characters):
    title = f"/invocations with {rows:,} rows of {characters:,} characters in some KB of Parquet"
    before_mib = attacked.recovered().highest_mib()
    attack(title, "body", REFUSED, **parquet_body(rows, "a" * characters))
    grown_mib = attacked.server.highest_mib() - before_mib
    assert grown_mib < UNPACKED_MIB, f"the server took {grown_mib:.0f} MiB for a body of some KB"


@pytest.mark.parametrize(("size", "callers"), [(256, 4), (257, 1), (10_000, 4)])
def test_a_batch_of_the_most_and_more(attack, size, callers):
    title = f"/ask/batch of {size:,} longest answers, {callers} at once"
    attack(title, "batches", {"200", *REFUSED}, size=size, callers=callers)


def test_a_megabyte_of_text_in_one_question(attack):
    title = "1 MB of text in one question: six routes, three kinds of text, all at once"
    attack(title, "texts_of_a_megabyte", {"200", *REFUSED})


def test_json_nested_as_deep_as_the_body_allows(attack):
    attack("JSON nested 499,000 deep and numbers of 999,000 digits, six routes", "nested", REFUSED)


def test_surrogates_and_control_characters_in_every_text_field(server_with, observed):
    """Traced with their texts: what cannot be written is not to hold up the traces behind it."""
    server = server_with(
        MLFLOW_TRACE_SAMPLING_RATIO="1", TRACE_TEXTS="true", WEBHOOK_SECRET="", ALLOWED_HOSTS="127.0.0.1"
    )
    with observed(server, "surrogates and control characters in every text field of every route") as row:
        outcome = attack_with(server, "every_text", {}, ADMIN_KEY)
        happened(row, outcome, {"200", "201", "204", "401", "404", "405", "409", *REFUSED})
    written = wait_until(lambda: server.metric("genai_traces_waiting") == 0, 60)
    assert written, f"{server.metric('genai_traces_waiting'):.0f} traces are never written"


# --- many callers, and slow ones ------------------------------------------------------------------


def test_a_body_that_comes_a_byte_a_second(attack):
    attack("300 bodies that come a byte a second", "slow_bodies", {"held", "408"}, connections=300, seconds=6)


@pytest.mark.parametrize(("connections", "longest"), [(1, True), (60, True), (200, False)])
def test_a_stream_that_nobody_reads(attack, connections, longest):
    title = f"{connections} streams of {'the longest' if longest else 'ordinary'} answers that nobody reads"
    attack(title, "slow_readers", {"held"}, connections=connections, longest=longest, seconds=3)


@pytest.mark.parametrize(("kind", "sent"), [("idle connections", ""), ("half-open requests", HALF_OPEN)])
def test_five_thousand_connections(attack, kind, sent):
    allowed = {"held", "408", "503", "closed by the server"}
    attack(f"5,000 {kind}", "held", allowed, connections=5_000, seconds=5, sent=sent)


def test_callers_who_leave_before_the_first_token(attack, attacked):
    attack("400 streams whose callers leave before the first token", "early_leavers", {"left"}, count=400)
    assert wait_until(attacked.server.is_idle, 10), "the engine still works for callers who left"


def test_many_rows_and_many_callers_take_turns(attack):
    title = "4 callers with 200 rows and 32 callers with one question, again and again for 8 s"
    allowed = {"200", "429", "413", "rows 200", "rows 413", "rows 429"}
    attack(title, "turns", allowed, row_callers=4, rows_each=200, callers=32, seconds=8)


# --- what stays -----------------------------------------------------------------------------------


@pytest.fixture
def memory_kept(attacked, record) -> Callable[[str], None]:
    """Puts the server's memory, idle again, beside that of the start."""

    def check(title: str) -> None:
        before, after = attacked.memory, attacked.settled()
        row = report.Row(title, f"{attacked.restarts} restarts by the test", memory=(before, after))
        if after.total > before.total * (1 + report.MEMORY_MORE):
            row.broken = [f"{after.total / before.total - 1:.0%} more memory"]
        if attacked.restarts:
            row.broken = [*row.broken, "not the server of the start"]
        record(row)

    return check


def test_memory_after_all_attacks(memory_kept):
    memory_kept("all of the above")


# --- reloads --------------------------------------------------------------------------------------


def test_a_webhook_that_comes_twice(attack, attacked):
    from mlflow.webhooks.delivery import _generate_hmac_signature

    data = {"name": "langchain-e2e-model", "alias": "champion", "version": "1"}
    body = json.dumps({"entity": "model_version_alias", "action": "created", "data": data})
    now = str(int(time.time()))
    headers = {
        "X-MLflow-Delivery-Id": "d-1", "X-MLflow-Timestamp": now, "Content-Type": "application/json",
        "X-MLflow-Signature": _generate_hmac_signature(SECRET, "d-1", now, body),
    }  # fmt: skip
    signed = {"path": "/admin/webhook", "body": body, "headers": headers}
    attack("one webhook, delivered 20 times at once", "signed", {"200", "202", "409"}, **signed, times=20)
    assert attacked.reload(1)["answers"]["200"], "it loads for ever"


def test_reloads_under_load(attacked, observed):
    server = attacked.recovered()
    with observed(server, "reloads under the load of 16 callers for 8 s, two asked for at once") as row:
        load = threading.Thread(target=attack_with, args=(server, "askers", {"callers": 16, "seconds": 8}))
        load.start()
        outcome = attacked.reload(8, callers=2, seconds=8)
        load.join()
        happened(row, outcome, {"200", "409"})


def test_a_hundred_reloads(attacked, observed, memory_kept):
    server = attacked.recovered()
    with observed(server, "100 reloads, one after the other") as row:
        outcome = attacked.reload(98, seconds=150)
        happened(row, outcome, {"200"})
        if outcome["answers"]["200"] < 98:
            row.broken = [*row.broken, "not all of them in time"]
    attacked.warm_up()
    memory_kept("all of the above, 100 reloads and the work of the start again")


# --- an engine that ends --------------------------------------------------------------------------


def test_the_engine_is_killed_ten_times(server_with, observed):
    """Whoever it was killed under gets an error or an answer soon, and the next caller an answer."""
    server = server_with()
    with observed(server, "the engine killed 10 times under 8 callers", caller_more_s=10.0) as row:
        outcome: dict = {}
        load = threading.Thread(
            target=lambda: outcome.update(attack_with(server, "askers", {"callers": 8, "seconds": 15, "longest": True}))
        )
        load.start()
        recovered = sum(itertools.takewhile(bool, (_is_killed_and_recovers(server) for _ in range(10))))
        load.join()
        happened(row, outcome, {"200", "429", *ERRORS})
        row.happened += f"; recovered {recovered} times"
        if recovered < 10:
            row.broken = [*row.broken, f"recovered {recovered} of 10 times"]
        if outcome["slowest_s"] > 15:
            row.broken = [*row.broken, f"an asker waited {outcome['slowest_s']:.0f} s"]


def _is_killed_and_recovers(server: LiveServer) -> bool:
    for engine in server.engines():
        engine.kill()
    return wait_until(lambda: attack_with(server, "askers", ONE)["answers"].get("200", 0) > 0, 10)


def _without_worker(folder: Path, server: LiveServer) -> None:
    for worker in folder.rglob("openvino_worker.py"):
        worker.rename(worker.with_suffix(".gone"))


def _without_model(folder: Path, server: LiveServer) -> None:
    for part in folder.rglob("openvino_model.bin"):
        part.rename(part.with_suffix(".gone"))


def _without_memory(folder: Path, server: LiveServer) -> None:
    """None for an engine; the server itself may ask for no more either."""
    (engine,) = server.engines()
    server.limit(resource.RLIMIT_AS, engine.memory_info().vms // 2)


@pytest.mark.parametrize("hinder", [_without_worker, _without_model, _without_memory])
def test_an_engine_that_cannot_start_again_ends_the_server(server_with, champion, tmp_path, record, hinder):
    """Its callers get an error soon; a restart policy, or a person, sees the exit code."""
    folder = tmp_path / "model"
    shutil.copytree(champion.folder, folder)
    server = server_with(MLFLOW_MODEL_URI=str(folder), MLFLOW_TRACKING_URI="")
    row = report.Row(
        f"the engine killed, and no other one can start ({hinder.__name__.strip('_').replace('_', ' ')})", ""
    )
    asking = {"callers": 8, "seconds": 10, "longest": True}
    outcome: dict = {}
    load = threading.Thread(target=lambda: outcome.update(attack_with(server, "askers", asking)))
    load.start()
    time.sleep(1)
    hinder(folder, server)
    killed = time.monotonic()
    for engine in server.engines():
        engine.kill()
    code = server.wait(15)
    took_s = time.monotonic() - killed
    load.join()
    happened(row, outcome, {"200", "429", *ERRORS, *GONE})
    row.happened += f"; the server ended with {code} after {took_s:.0f} s" if code is not None else "; it never ended"
    if code != ENGINE_FAILED:
        row.broken = [*row.broken, f"exit code {code}, not {ENGINE_FAILED}"]
    if outcome["slowest_s"] > 15:
        row.broken = [*row.broken, f"a caller waited {outcome['slowest_s']:.0f} s"]
    record(row)


# --- what the server writes to --------------------------------------------------------------------


def test_a_full_disk(server_with, observed):
    """No file may grow beyond what a trace or two need; answers go on, and feedback says that it was not kept."""
    server = server_with(MLFLOW_TRACE_SAMPLING_RATIO="1", TRACE_TEXTS="true")
    server.limit(resource.RLIMIT_FSIZE, 20_000)
    with observed(server, "a full disk: traces and feedback cannot be written") as row:
        outcome = attack_with(server, "feedback", {"callers": 8, "seconds": 8})
        happened(row, outcome, {"/ask 200", "/feedback 200", "/feedback 503", "/feedback 507"})


def test_an_mlflow_that_hangs(server_with, champion, observed):
    """It accepts connections and never answers; the model comes from a folder."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        server = server_with(
            MLFLOW_MODEL_URI=str(champion.folder), MLFLOW_TRACKING_URI=uri, MLFLOW_TRACE_SAMPLING_RATIO="1", GRACE_S="5"
        )
        with observed(server, "an MLflow that hangs: traces, and feedback from 30 callers") as row:
            outcome = attack_with(server, "feedback", {"callers": 30, "seconds": 8})
            happened(row, outcome, {"/ask 200", "/feedback 200", "/feedback 429", "/feedback 503"})
            if outcome["slowest_s"] > 10:
                row.broken = [*row.broken, f"a caller waited {outcome['slowest_s']:.0f} s"]
        server.process.terminate()
        assert server.wait(15) == 0, "it does not end while MLflow hangs"
