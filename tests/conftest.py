"""Isolates every test: a home of its own, no network address from the outside, folders below tmp_path."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import tiny_model`; the test folders are no packages

# Two workers on two cores: more threads for each would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts us in the background has these ignored, and so would have every process that a test sends them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

REPO = Path(__file__).resolve().parents[1]
STORES_WITHOUT_ADDRESS = ("mlflow.db", "mlruns", "mlartifacts")  # made by MLflow where nobody named a store

NOT_FROM_OUTSIDE = (
    "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_EXPERIMENT_NAME", "TRACE_EXPERIMENT", "CHAT_URL", "OPENAI_API_KEY",
)  # fmt: skip


LONG = ("system", "genai_lifecycle/stages", "genai_server/tracing", "hostile", "genai_lifecycle/models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, so that at the end no worker waits for another one's (pyproject.toml keeps this order)."""
    folders = [REPO / "tests" / name for name in LONG]
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in folders))


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory, monkeypatch) -> None:
    """No test reads the user's home, HuggingFace cache or MLflow settings, nor writes to them."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    for name in NOT_FROM_OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3_", "MLFLOW_BOTO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else a missing key is looked for in the network


def stores_in(folder: Path) -> set[tuple[str, int]]:
    """MLflow's stores without an address there, each with the time of its last change."""
    paths = [folder / name for name in STORES_WITHOUT_ADDRESS]
    return {(path.name, path.stat().st_mtime_ns) for path in paths if path.exists()}


_known_stores = stores_in(REPO)  # a developer's own stay, and are no test's fault


@pytest.fixture(autouse=True)
def no_store_in_the_checkout(isolated) -> Iterator[None]:
    """Fails the test after which MLflow has a store in the checkout's root (with two workers: it, or its neighbour)."""
    yield
    new = stores_in(REPO) - _known_stores
    _known_stores.update(new)
    assert not new, f"MLflow was used without an address and wrote {', '.join(name for name, _ in new)} into {REPO}"


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory):
    """A real S3 store for this test process; a test that kills it starts it again."""
    from s3_store import running

    with running(tmp_path_factory.mktemp("s3-store")) as store:
        yield store


@pytest.fixture(scope="session", autouse=True)
def asked_by_localhosts_name() -> None:
    """Starlette's test client asks for `testserver`, a name that a server for this machine only does not answer to."""
    from starlette.testclient import TestClient

    defaults = TestClient.__init__.__defaults__
    TestClient.__init__.__defaults__ = tuple(
        "http://localhost" if value == "http://testserver" else value for value in defaults
    )


@pytest.fixture(scope="session", autouse=True)
def prepared(tmp_path_factory, common) -> None:
    """Quiet libraries and short time-outs, as the command line sets them before the first MLflow import.

    What the command line stages and logs goes below this worker's folder: workers sweep what another one left.
    """
    import mlflow_tables

    from genai_lifecycle.store.environment import prepare

    staging = tmp_path_factory.mktemp("staging")
    os.environ["LIFECYCLE_STAGING_DIR"] = str(staging)
    os.environ["LIFECYCLE_LOG_DIR"] = str(tmp_path_factory.mktemp("logs"))
    prepare(staging)
    mlflow_tables.template = common / "tables.db"
    if "mlflow" in sys.modules:
        mlflow_tables.copy_from(mlflow_tables.template)


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder of the whole run: what is there once serves every worker."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def made_once(common) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder of that name, made by the first worker that needs it; read only."""
    from filelock import FileLock

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(common / f"{name}.lock"):
            if not (common / name).exists():
                part = common / f"{name}.part"
                part.mkdir(exist_ok=True)
                make(part)
                part.rename(common / name)
        return common / name

    return folder


@pytest.fixture
def make_config(tmp_path) -> Callable:
    """An E2EConfig whose every folder is below tmp_path; arguments override."""
    from genai_lifecycle.config import E2EConfig

    def make(**given):
        return E2EConfig(**{**folders(tmp_path), "cases": make_cases(tmp_path / "cases.jsonl")} | given)

    return make


def folders(base: Path) -> dict[str, object]:
    """Settings that keep everything below `base`."""
    return {
        "backend_store_uri": f"sqlite:///{base / 'db' / 'mlflow.db'}",
        "data_dir": str(base / "artifacts"),
        "staging_dir": base / "staging",
        "log_dir": base / "logs",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def make_cases(path: Path) -> Path:
    path.write_text(
        '{"question": "What is overfitting?", "reference": "Overfitting is learning the training data too closely."}\n'
        '{"question": "What is MLflow?", "reference": "MLflow is an open platform for the machine learning life."}\n'
        '{"question": "Who won the match?", "reference": "I don\'t know about that."}\n',
        "utf-8",
    )
    return path


@pytest.fixture(scope="session")
def tiny_gpt2(made_once) -> Path:
    """Folder of a real GPT-2 with one layer and random weights; read only."""
    from tiny_model import make_gpt2

    return made_once("tiny-gpt2", make_gpt2)


@pytest.fixture(scope="session")
def tiny_ir(tiny_gpt2, made_once) -> Path:
    """Its converted model; the answers go on to the end of the window."""
    from tiny_model import make_ir

    return made_once("tiny-ir", lambda target: make_ir(tiny_gpt2, target))


@pytest.fixture
def waiting():
    from waiting import Waiting

    return Waiting()


@pytest.fixture(scope="session")
def lessons_gpt2(made_once) -> Path:
    """Folder of the GPT-2 that was taught the answers of `tiny_model.LESSONS`; read only."""
    from tiny_model import make_lessons_gpt2

    return made_once("lessons-gpt2", make_lessons_gpt2)


@pytest.fixture(scope="session")
def saved_tiny(tiny_gpt2, made_once) -> Path:
    """`tiny_gpt2` as a served model, in a folder named `saved`; read only."""
    return made_once("tiny-package", lambda base: saved_model(base, tiny_gpt2)) / "saved"


@pytest.fixture
def store(make_config):
    """An opened SQLite store of its own."""
    from genai_lifecycle.store.tracking_store import open_store

    return open_store(make_config(tracking_uri=make_config().backend_store_uri))


def saved_model(folder: Path, weights: Path) -> Path:
    """A served model as a folder, laid out and saved by the packaging module's own parts; the torch engine answers."""
    from genai_lifecycle.models import packaging
    from genai_lifecycle.models.conversion.precision import not_converted
    from genai_lifecycle.models.generation import greedy_answers, load_text_model
    from genai_lifecycle.models.source import ModelSource
    from genai_lifecycle.store.prompt_registry import PromptRef

    source = ModelSource("tiny", "folder", str(weights), None, "plain", "0" * 64)
    prompt = PromptRef("qa-simple", 3, "Question: {{question}}\nAnswer:")
    packaging.stage(folder / "staged", source, prompt)
    not_converted(folder / "staged" / "ir", "a test wants the torch engine")
    answer = greedy_answers(load_text_model(str(weights), "plain"), prompt.template, ["What is MLflow?"], 8)[0]
    golden = {
        "question": "What is MLflow?",
        "answer": answer.answer,
        "token_ids": answer.token_ids,
        "max_new_tokens": 8,
    }
    packaging.write_golden(folder / "staged", [golden])
    packaging.save_model(folder / "staged", folder / "saved", engine="torch", max_new_tokens=96)
    return folder / "saved"


class StandIn:
    """A model for the server that always gives the same answer, or waits until it is released.

    Args:
        answer: as a packaged model returns it; every field may be left out.
        golden: question, token_ids and max_new_tokens of each.
    """

    prompt = None
    takes_prompts = False

    def __init__(self, answer: dict, golden: list[dict] | None = None, hold: object | None = None):
        from genai_server.answering.model_output import answer_of, golden_of

        self.said = answer_of({"answer": "", "finish_reason": "stop", **answer})
        self.golden = [golden_of(item) for item in golden or ()]
        self.hold = hold
        self.healthy, self.closed, self.broken = True, False, ""

    def new_group(self) -> int:
        return 1

    async def ask(self, question: dict, params: dict, group: int = 0):
        if self.hold is not None:
            await self.hold.wait()
        return self.said

    async def stream(self, question: dict, params: dict):
        yield await self.ask(question, params)

    def is_healthy(self) -> bool:
        return self.healthy

    def failure(self) -> str:
        return self.broken

    def describe(self) -> dict:
        return {"name": "stand-in"}

    def close(self) -> None:
        self.closed = True
