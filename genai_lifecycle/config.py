"""`E2EConfig`: every setting of the orchestrator in one frozen dataclass, checked when it is made.

Flags beat environment variables, environment variables beat defaults. Nothing is read, opened or created
at import; `from_env` takes the environment as a parameter so that a test can pass a dict.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from genai_lifecycle.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent
BUNDLED_MODEL = CHECKOUT / "bundled_model" / "gpt2-mini"
BUNDLED_CASES = CHECKOUT / "bundled_model" / "corpus" / "cases.jsonl"
LOCAL_SERVER_PORT = 5050  # where `--mode ui` listens and where a running MLflow server is looked for
TURN_FORMATS = ("auto", "plain", "dialogue")
ENGINES = ("auto", "openvino", "torch")
PRECISIONS = ("auto", "fp32", "int8")

# Environment variable of each setting that has one. MLFLOW_* are MLflow's own names.
ENVIRONMENT = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "backend_store_uri": "MLFLOW_BACKEND_STORE_URI",
    "experiment_name": "MLFLOW_EXPERIMENT_NAME",
    "data_dir": "LIFECYCLE_DATA_DIR",
    "model": "LIFECYCLE_MODEL",
    "registered_model_name": "LIFECYCLE_REGISTERED_MODEL_NAME",
    "judge_model": "LIFECYCLE_JUDGE_MODEL",
    "url": "CHAT_URL",
    "engine": "ENGINE",
    "precision": "PRECISION",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODEL_URI = re.compile(r"models:/[^/:@]+(/[1-9]\d*|@[\w-]+)")


@dataclass(frozen=True)
class E2EConfig:
    """Settings of one run of the orchestrator. Raises ConfigError for a value that is wrong."""

    model: str | None = None  # None = the bundled GPT-2; else a folder or a Hub name
    model_revision: str | None = None  # branch, tag or commit of a Hub model; the commit is recorded
    turn_format: str = "auto"  # auto = dialogue for a DialoGPT checkpoint, plain otherwise
    engine: str = "auto"  # auto = openvino where the checkpoint can be converted, else torch
    precision: str = "auto"  # of the openvino engine's weights; auto = the fastest within the tolerance
    cases: Path = BUNDLED_CASES  # JSON lines with question and reference
    experiment_name: str = "langchain-e2e"
    registered_model_name: str = "langchain-e2e-model"
    tracking_uri: str | None = None  # None = a server on port 5050, else the backend store directly
    backend_store_uri: str = f"sqlite:///{CHECKOUT / 'local_mlflow_backend' / 'mlflow.db'}"
    data_dir: str = str(CHECKOUT / "local_mlflow_backend" / "artifacts")  # artifact root
    staging_dir: Path = CHECKOUT / "local_staging"  # scratch, safe to delete between runs
    log_dir: Path = CHECKOUT / "local_mlflow_logs"
    max_new_tokens: int = 96
    seed: int = 0
    port: int | None = None  # None = 5050 for `ui`, 5001 for `serve`
    judge_model: str | None = None  # MLflow judge address, for example openai:/gpt-4o-mini
    start: bool = False  # serve: run the server instead of printing how
    model_uri: str | None = None  # export: models:/NAME/VERSION or models:/NAME@ALIAS; None = the champion
    output_dir: Path = CHECKOUT / "exported_model"  # export: where the bundle is written
    force: bool = False  # export: replace the bundle that is there
    wheels: bool = False  # export: with the wheels of the lock, for a build without internet
    url: str | None = None  # chat: a running server; None = the version is loaded here
    s3_endpoint_url: str | None = None  # export: for MLflow's S3 client, where the files are in S3 or MinIO
    s3_access_key: str | None = field(default=None, repr=False)
    s3_secret_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("cases", "staging_dir", "log_dir", "output_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)).expanduser())
        self._check_names()
        self._check_ranges()
        self._check_addresses()
        self._check_export()

    @classmethod
    def from_env(cls, given: Mapping[str, object], env: Mapping[str, str] = os.environ) -> E2EConfig:
        """Settings from flags (`given`, without the ones that were not used), then `env`, then defaults."""
        values = {name: env[variable] for name, variable in ENVIRONMENT.items() if env.get(variable)}
        known = {field.name for field in fields(cls)}
        values |= {name: value for name, value in given.items() if name in known and value is not None}
        return cls(**values)

    def _check_names(self) -> None:
        for name in ("registered_model_name", "experiment_name"):
            value = getattr(self, name)
            if not _NAME.fullmatch(value):
                raise ConfigError(
                    f"{name} {value!r} has a character that is not allowed, or is empty or too long.",
                    hint="Use letters, digits, '.', '_' and '-', starting with a letter or digit, 128 at most.",
                )
        for name, allowed in (("turn_format", TURN_FORMATS), ("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}.", hint=f"Use one of {', '.join(allowed)}.")

    def _check_ranges(self) -> None:
        if not 1 <= self.max_new_tokens <= 1024:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}.", hint="Use a value from 1 to 1024.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}.", hint="Use 0 or a larger whole number.")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}.", hint="Use a value from 1 to 65535.")

    def _check_addresses(self) -> None:
        if self.tracking_uri and not re.match(r"(https?|sqlite|postgresql(\+\w+)?)://", self.tracking_uri):
            raise ConfigError(
                f"tracking_uri is {self.tracking_uri!r}.",
                hint="Use http://HOST:PORT of an MLflow server, or sqlite:///FILE.",
            )
        if not re.match(r"(sqlite|postgresql(\+\w+)?)://", self.backend_store_uri):
            raise ConfigError(f"backend_store_uri is {self.backend_store_uri!r}.", hint="Use sqlite:///FILE.")
        if "://" in self.data_dir:
            raise ConfigError(f"data_dir is {self.data_dir!r}.", hint="Use a folder; it is made when it is missing.")

    def _check_export(self) -> None:
        """The S3 values themselves stay out of every message."""
        if self.model_uri is not None and not _MODEL_URI.fullmatch(self.model_uri):
            raise ConfigError(
                f"model_uri is {self.model_uri!r}.",
                hint="Use models:/NAME/VERSION or models:/NAME@ALIAS; leave it out for the champion.",
            )
        if self.url and not re.match(r"https?://[^/]", self.url):
            raise ConfigError(f"url is {self.url!r}.", hint="Use http://HOST:PORT of a running server.")
        if self.s3_endpoint_url and not re.match(r"https?://[^/]", self.s3_endpoint_url):
            raise ConfigError("s3_endpoint_url is no address.", hint="Use http://HOST:PORT or https://HOST.")
        if bool(self.s3_access_key) != bool(self.s3_secret_key):
            raise ConfigError(
                "Of --s3-access-key and --s3-secret-key only one is given.",
                hint="Give both; or neither, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )
