"""Mode `doctor`: what is wrong here, and what to do about it. It changes nothing, and needs nothing to be whole."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from genai_lifecycle.config import (
    CHECKOUT,
    FEEDBACK_FILE,
    FORMER_FEEDBACK_FILE,
    IS_CHECKOUT,
    LOCAL_SERVER_PORT,
    SERVER_PORT,
    E2EConfig,
)
from genai_lifecycle.errors import LifecycleError
from genai_lifecycle.runtime import machine
from genai_lifecycle.runtime.addresses import sqlite_file, without_password
from genai_lifecycle.runtime.s3_address import S3Root, is_s3
from genai_lifecycle.serving.commands import mode_command
from genai_lifecycle.settings import Settings, setting


@dataclass(frozen=True)
class DoctorSettings(Settings):
    """How the findings are printed."""

    json: bool = setting(False, "print JSON, for programs")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    state: str  # ok | warning | problem
    detail: str
    next_step: str = ""


PYTHON = "3.11"  # what the requirements were resolved for
LITTLE_BYTES, ENOUGH_BYTES = 200_000_000, 2_000_000_000  # a run cannot start below; a few runs need the other
REQUIREMENTS = (CHECKOUT / "requirements.txt", CHECKOUT / "genai_server" / "requirements.txt")
_INSTALL = "make install" if IS_CHECKOUT else "Install genai-lifecycle anew, with its dependencies."


def examine(config: E2EConfig) -> list[Finding]:
    """Every check, each alone: one that cannot be made is a finding as well."""
    checks: tuple[tuple[str, Callable[[E2EConfig], Iterator[Finding]]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("disk space", _space),
        ("ports", _ports),
        ("servers' files", _server_files),
        ("artifact store", _artifact_store),
        ("tracking store", _tracking_store),
    )
    return [finding for name, check in checks for finding in _guarded(name, check, config)]


def has_problem(findings: Sequence[Finding]) -> bool:
    return any(finding.state == "problem" for finding in findings)


def _guarded(what: str, check: Callable[[E2EConfig], Iterator[Finding]], config: E2EConfig) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in check(config):
            found.append(finding)
    except LifecycleError as exc:
        found.append(Finding(what, "problem", str(exc.args[0]), exc.hint))
    except Exception as exc:  # noqa: BLE001 - half of everything may be broken; what breaks a check is what we look for
        said = f"{type(exc).__name__}: {str(exc).strip().splitlines()[0][:200] if str(exc).strip() else 'no reason'}"
        found.append(
            Finding(what, "problem", f"This could not be looked at: {said}", "See --verbose; then: make install")
        )
    return found


# --- this machine ---------------------------------------------------------------------------------


def _python(config: E2EConfig) -> Iterator[Finding]:
    found = platform.python_version()
    if found.startswith(f"{PYTHON}."):
        yield Finding("python", "ok", found)
    else:
        yield Finding(
            "python", "warning", f"{found}; tested with {PYTHON}", f"Make the environment with python{PYTHON}."
        )


def _packages(config: E2EConfig) -> Iterator[Finding]:
    """One line for each package that is missing or not the pinned one; one line for all others."""
    right = 0
    pins = machine.pins(*REQUIREMENTS) if IS_CHECKOUT else machine.pins_of("genai-lifecycle")
    for name, pinned in pins.items():
        found = machine.installed(name)
        if found is None:
            yield Finding(name, "problem", f"not installed; {pinned} is needed", _INSTALL)
        elif found != pinned:
            yield Finding(name, "warning", f"{found} is installed, tested with {pinned}", _INSTALL)
        else:
            right += 1
    yield Finding("packages", "ok", f"{right} as pinned")


def _space(config: E2EConfig) -> Iterator[Finding]:
    places = {"scratch files": config.staging_dir}
    if not is_s3(config.data_dir):
        places["artifacts"] = Path(config.data_dir)
    if config.database_uri.startswith("sqlite:///"):
        places["database"] = _database_file(config).parent
    by_disk: dict[int, tuple[int, list[str]]] = {}
    for name, place in places.items():
        disk, free = machine.free_bytes(place)
        by_disk.setdefault(disk, (free, []))[1].append(f"{name} ({place})")
    for free, names in by_disk.values():
        state = "problem" if free < LITTLE_BYTES else "warning" if free < ENOUGH_BYTES else "ok"
        step = "" if state == "ok" else f"Free some space; {mode_command(config, 'clean')} shows what may go."
        yield Finding("disk space", state, f"{free / 1e9:.1f} GB free for {', '.join(names)}", step)


def _ports(config: E2EConfig) -> Iterator[Finding]:
    from genai_lifecycle.serving.processes import is_port_taken

    for port, what, flag in ((LOCAL_SERVER_PORT, "MLflow", "ui"), (SERVER_PORT, "the server", "serve")):
        if not is_port_taken("127.0.0.1", port):
            yield Finding(f"port {port}", "ok", f"free, for {what}")
        elif _is_ours(port):
            yield Finding(f"port {port}", "ok", f"{what} runs there{_by(port)}")
        else:
            step = f"Stop it, or choose another one: --mode {flag} --port N"
            yield Finding(f"port {port}", "warning", f"another program listens there{_by(port)}", step)


def _is_ours(port: int) -> bool:
    """Whether what listens is what belongs there."""
    from genai_lifecycle.serving.processes import ask
    from genai_lifecycle.store.tracking_store import probe

    if port == LOCAL_SERVER_PORT:
        return probe(f"http://127.0.0.1:{port}") == "mlflow"
    return ask(f"http://127.0.0.1:{port}/health/live")[0] == 200


def _by(port: int) -> str:
    try:
        who = machine.listener(port)
    except ImportError:
        who = ""
    return f": {who}" if who else ""


def _server_files(config: E2EConfig) -> Iterator[Finding]:
    """Feedback and traces that a server of an earlier version left among the scratch files."""
    former = FORMER_FEEDBACK_FILE.parent
    left = [*former.glob(f"{FORMER_FEEDBACK_FILE.name}*"), *former.glob("traces-*.db")]
    if left:
        names = ", ".join(sorted(path.name for path in left))
        start = mode_command(config, "serve", "--start")
        step = f"The next start of the server moves them to {FEEDBACK_FILE.parent}: {start}"
        yield Finding("servers' files", "warning", f"feedback or traces are still in {former}: {names}", step)
    else:
        yield Finding("servers' files", "ok", f"feedback and waiting traces are kept in {config.feedback_file.parent}")


# --- artifacts ------------------------------------------------------------------------------------


def _artifact_store(config: E2EConfig) -> Iterator[Finding]:
    if is_s3(config.data_dir):
        _try_s3(config.data_dir, config)
        yield Finding("artifact store", "ok", f"{config.data_dir} can be read")
    elif Path(config.data_dir).is_dir():
        yield Finding("artifact store", "ok", config.data_dir)
    else:
        yield Finding("artifact store", "warning", f"{config.data_dir} is not there yet", "The first run makes it.")


def _try_s3(address: str, config: E2EConfig) -> None:
    """Raises StorageFailed: no keys, no bucket, no answer, ... Makes nothing."""
    from genai_lifecycle.store.s3.preflight import open_root

    root = S3Root.parse(address)
    open_root(root, config.s3_endpoint_url, config.s3_access_key, config.s3_secret_key, writes=False)


# --- runs and versions ----------------------------------------------------------------------------


def _tracking_store(config: E2EConfig) -> Iterator[Finding]:
    from genai_lifecycle.store.tracking_store import choose

    uri, _, description = choose(config)
    if uri.startswith("sqlite:///"):
        finding = _database(config.database_uri, config)
        yield finding
        if finding.state != "ok":
            return
    else:
        if not uri.startswith("http"):
            from genai_lifecycle.store.postgresql import check

            check(uri)
        yield Finding("tracking store", "ok", f"{without_password(uri)} answers")
    yield from _contents(config, uri)


def _database(uri: str, config: E2EConfig) -> Finding:
    """Whether the SQLite file is there and whole; opened read only, so that none is made."""
    file = _database_file(config)
    if not file.is_file():
        return Finding("tracking store", "warning", f"there is no database {file} yet", "--mode experiment makes it.")
    step = f"Put a copy back (relocate leaves {file.name}.*.backup beside it), or start with another one."
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'experiments'").fetchone()[0]
    except sqlite3.OperationalError as exc:
        hint = "Is another program writing to it, or may it not be read? Look again in a minute."
        return Finding("tracking store", "problem", f"{file} cannot be read: {exc}", hint)
    except sqlite3.DatabaseError as exc:
        return Finding("tracking store", "problem", f"{file} is damaged: {exc}", step)
    if said != "ok" or not tables:
        return Finding("tracking store", "problem", f"{file} is {'not MLflow' if said == 'ok' else 'damaged'}", step)
    return Finding("tracking store", "ok", f"{file}, {file.stat().st_size / 1e6:.0f} MB")


def _database_file(config: E2EConfig) -> Path:
    return sqlite_file(config.database_uri)


def _contents(config: E2EConfig, uri: str) -> Iterator[Finding]:
    from genai_lifecycle.store.maintenance import inventory

    inventory.look_at(uri)
    found = {item.experiment_id: item for item in inventory.experiments()}
    runs = {number: inventory.runs(number) for number in found}
    yield from _dead_runs(config, [run for each in runs.values() for run in each])
    if is_reachable := not _is_served(found.values()):
        _prepare_s3(config, [item.location for number, item in found.items() if runs[number]])
        yield from _experiments(config, [item for number, item in found.items() if runs[number]])
    yield from _versions(config, is_reachable or uri.startswith("http"))


def _is_served(experiments) -> bool:
    """Whether a server keeps the artifacts, which then only the server can reach."""
    return all(item.location.startswith("mlflow-artifacts:") for item in experiments)


def _prepare_s3(config: E2EConfig, places: Sequence[str]) -> None:
    """For addresses in another bucket than --data-dir's; the first one that does not work is the finding."""
    if not is_s3(config.data_dir):
        for place in places:
            if is_s3(place):
                _try_s3(place, config)


def _dead_runs(config: E2EConfig, runs) -> Iterator[Finding]:
    dead = [run for run in runs if run.is_left_open]
    if dead:
        step = "The next command that writes marks them as KILLED; nothing else is needed."
        yield Finding("runs", "warning", f"{len(dead)} were left RUNNING by a process that is gone", step)
    else:
        yield Finding("runs", "ok", f"{sum(not run.in_trash for run in runs)}, none left open")


def _experiments(config: E2EConfig, experiments) -> Iterator[Finding]:
    """Folders of experiments with runs that are not there any more."""
    from genai_lifecycle.store.maintenance import inventory

    gone = [item for item in experiments if (folder := inventory.local_folder(item.location)) and not folder.is_dir()]
    for item in gone:
        step = mode_command(config, "relocate", "--from", item.location, "--to", "NEW_PLACE")
        yield Finding(
            f"experiment {item.name}", "problem", f"its artifacts in {item.location} are gone", f"Moved? {step}"
        )
    if not gone:
        yield Finding("artifact locations", "ok", f"{len(experiments)} experiments with runs, each is there")


def _versions(config: E2EConfig, can_look: bool) -> Iterator[Finding]:
    """Every version has its files; without them an alias is a problem, a version that nobody is sent to a warning."""
    from genai_lifecycle.store.maintenance import inventory
    from genai_lifecycle.store.maintenance.locations import has_model

    versions = inventory.versions(config.registered_model_name)
    whole = 0
    for version in versions:
        if has_model(version.location):
            whole += 1
            continue
        names = ", ".join(version.aliases)
        detail = f"its files are not at {version.location}"
        step = (
            f"Moved? {mode_command(config, 'relocate', '--from', 'OLD', '--to', 'NEW')}   Lost? deploy and test again."
        )
        yield Finding(
            f"version {version.version}{f' ({names})' if names else ''}", "problem" if names else "warning", detail,
            step if names else "clean removes it when it is old enough.",
        )  # fmt: skip
    if not versions:
        yield Finding("versions", "warning", f"{config.registered_model_name} has none yet", "--mode deploy makes one.")
    else:
        yield _champion(versions, whole)


def _champion(versions, whole: int) -> Finding:
    said = f"{whole} of {len(versions)} have their files"
    if any("champion" in version.aliases for version in versions):
        return Finding("versions", "ok", said)
    return Finding("versions", "warning", f"{said}; none is champion", "--mode test tests the candidate.")
