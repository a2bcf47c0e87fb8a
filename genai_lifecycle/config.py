"""`E2EConfig`: the settings that several modes share. Those of one mode alone are in its stage's file.

Nothing is read, opened or created at import; `from_env` takes the environment as a parameter so that a test can pass
a dict. How a setting is declared: `settings.py`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.runtime.addresses import absolute_address, without_password
from genai_lifecycle.runtime.s3_address import S3Root, is_s3
from genai_lifecycle.settings import Settings, setting

CHECKOUT = Path(__file__).resolve().parent.parent  # of the code: a checkout, or where pip has installed it
IS_CHECKOUT = (CHECKOUT / "pyproject.toml").is_file()
DATA_ROOT = CHECKOUT if IS_CHECKOUT else Path.cwd()  # an installed copy keeps nothing among the packages
PROGRAM = "python e2e_mlflow.py" if IS_CHECKOUT else "genai-lifecycle"
BUNDLED_MODEL = CHECKOUT / "bundled_model" / "gpt2-mini"
BUNDLED_CASES = CHECKOUT / "bundled_model" / "corpus" / "cases.jsonl"
FEEDBACK_FILE = DATA_ROOT / "local_mlflow_backend" / "feedback.jsonl"  # of a server that is started in the checkout
FORMER_FEEDBACK_FILE = DATA_ROOT / "local_staging" / "feedback.jsonl"  # of a server of an earlier version
LOCAL_SERVER_PORT = 5050  # where `--mode ui` listens and where a running MLflow server is looked for
SERVER_PORT = 5001  # where `--mode serve` listens
PORTS = (1, 65535)
STORE = "store"  # the group of settings that decide where a later mode looks for what this one left
FOLDERS = "folders"
EVERY_MODE = (STORE, FOLDERS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODEL_URI = re.compile(r"models:/[^/:@]+(/[1-9]\d*|@[\w-]+)")


def settings_file(name: str) -> Path:
    """The file that people edit, at the data root; an installed copy brings one along for who has none."""
    own = DATA_ROOT / name
    return own if IS_CHECKOUT or own.exists() else CHECKOUT / "genai_lifecycle" / "defaults" / name


# --- checks: (what a message calls it, value) -> value --------------------------------------------


def check_model_uri(name: str, value: str) -> str:
    if _MODEL_URI.fullmatch(value):
        return value
    hint = "Use models:/NAME/VERSION or models:/NAME@ALIAS; leave it out for the champion."
    raise ConfigError(f"{name} is {value!r}.", hint=hint)


def check_server_url(name: str, value: str) -> str | None:
    if value and not re.match(r"https?://[^/]", value):
        raise ConfigError(f"{name} is {without_password(value)!r}.", hint="Use http://HOST:PORT of a running server.")
    return value or None


def _name(name: str, value: str) -> str:
    if _NAME.fullmatch(value):
        return value
    raise ConfigError(
        f"{name} {value!r} has a character that is not allowed, or is empty or too long.",
        hint="Use letters, digits, '.', '_' and '-', starting with a letter or digit, 128 at most.",
    )


def _tracking_address(name: str, value: str) -> str | None:
    if value and not re.match(r"(https?|sqlite|postgresql(\+\w+)?)://", value):
        raise ConfigError(
            f"{name} is {without_password(value)!r}.",
            hint="Use http://HOST:PORT of an MLflow server, sqlite:///FILE, or postgresql://USER@HOST/DATABASE.",
        )
    if value and not _has_host(value):
        raise ConfigError(f"{name} has no host in it.", hint="Use http://HOST:PORT of an MLflow server.")
    return _absolute(name, value) if value else None


def _has_host(uri: str) -> bool:
    """Whether the address of a server names one; other addresses have their own checks."""
    try:
        return not uri.startswith("http") or bool(urlsplit(uri).hostname)
    except ValueError:  # a bracket without its other half
        return False


def _database_address(name: str, value: str) -> str:
    if not re.match(r"(sqlite|postgresql(\+\w+)?)://", value):
        hint = "Use sqlite:///FILE, or postgresql://USER@HOST/DATABASE."
        raise ConfigError(f"{name} is {without_password(value)!r}.", hint=hint)
    return _absolute(name, value)


def _absolute(name: str, value: str) -> str:
    """A relative file is one of the current directory, for the processes that we start elsewhere too."""
    try:
        return absolute_address(value)
    except ValueError as exc:
        raise ConfigError(
            f"{name} is {without_password(value)!r}: {exc}.",
            hint="Use sqlite:///FILE, relative to the current directory, or sqlite:////FOLDER/FILE.",
        ) from None


def _artifact_root(name: str, value: str) -> str:
    """An address in S3 stays out of the message: there may be a key in it."""
    if not is_s3(value):
        if "://" in value:
            raise ConfigError(f"{name} is {value!r}.", hint="Use a folder, or s3://BUCKET/PREFIX.")
        return os.path.abspath(value)
    try:
        return str(S3Root.parse(value))
    except ValueError as exc:
        raise ConfigError(
            f"{name} is no address in S3: {exc}.",
            hint="Use s3://BUCKET/PREFIX; keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ) from None


def _s3_endpoint(name: str, value: str) -> str | None:
    if value and not re.match(r"https?://[^/]", value):
        raise ConfigError(f"{name} is no address.", hint="Use http://HOST:PORT or https://HOST.")
    if "@" in value:
        hint = "Use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the keys."
        raise ConfigError(f"{name} has a key in it.", hint=hint)
    return value or None


def _absolute_path(_: str, value: Path) -> Path:
    return value.absolute()  # processes that run elsewhere are given it


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class E2EConfig(Settings):
    """What the whole life shares. Raises ConfigError for a value that is wrong."""

    model: str | None = setting(
        None, "folder or Hub name; the bundled GPT-2 when left out",
        env="LIFECYCLE_MODEL", group="model",
    )  # fmt: skip
    model_revision: str | None = setting(
        None, "branch, tag or commit of a Hub model", metavar="COMMIT", group="model"
    )  # fmt: skip
    turn_format: str = setting(
        "auto", "auto takes DialoGPT for dialogue",
        choices=("auto", "plain", "dialogue"), group="model",
    )  # fmt: skip
    engine: str = setting(
        "auto", "what answers",
        choices=("auto", "openvino", "torch"), env="ENGINE",
    )  # fmt: skip
    cases: Path = setting(BUNDLED_CASES, "JSON lines, CSV, promptfoo's YAML", metavar="FILE")
    max_new_tokens: int = setting(96, "longest answer in tokens", limits=(1, 1024), metavar="N")
    judge_model: str | None = setting(
        None, "judge for MLflow's scorers, e.g. openai:/NAME", env="LIFECYCLE_JUDGE_MODEL", metavar="URI"
    )
    seed: int = setting(0, "seed of the intervals' resampling", limits=(0, 2**63 - 1), metavar="N")
    gate: Path = setting(
        settings_file("gate.yaml"), "what a version must show to replace the one in use", metavar="FILE"
    )
    override_gate: bool = setting(False, "let the version pass whatever the gate finds; recorded")
    serving_experiment: str = setting(
        "serving", "MLflow experiment of the servers' traces", env="TRACE_EXPERIMENT", metavar="NAME"
    )
    feedback_file: Path = setting(FEEDBACK_FILE, "a server's ledger of feedback", env="FEEDBACK_FILE", metavar="FILE")

    tracking_uri: str | None = setting(
        None, "MLflow server or store; when left out, one on port 5050, else the database below",
        env="MLFLOW_TRACKING_URI", metavar="URI", group=STORE, check=_tracking_address, secret=True,
    )  # fmt: skip
    backend_store_uri: str = setting(
        f"sqlite:///{DATA_ROOT / 'local_mlflow_backend' / 'mlflow.db'}", "database used without a server",
        env="MLFLOW_BACKEND_STORE_URI", metavar="URI", group=STORE, check=_database_address, secret=True,
    )  # fmt: skip
    data_dir: str = setting(
        str(DATA_ROOT / "local_mlflow_backend" / "artifacts"), "artifact root: a folder or s3://BUCKET/PREFIX",
        env="LIFECYCLE_DATA_DIR", metavar="PLACE", group=STORE, check=_artifact_root,
    )  # fmt: skip
    s3_endpoint_url: str | None = setting(
        None, "address of an S3 store; Amazon's when left out",
        env="MLFLOW_S3_ENDPOINT_URL", metavar="URL", group=STORE, check=_s3_endpoint,
    )  # fmt: skip
    s3_access_key: str | None = setting(
        None, "key of the S3 store, in place of the usual AWS places", metavar="KEY", group="s3_keys", secret=True
    )
    s3_secret_key: str | None = setting(
        None, "its secret key; better: AWS_SECRET_ACCESS_KEY, which other users do not see", metavar="KEY",
        group="s3_keys", secret=True,
    )  # fmt: skip
    experiment_name: str = setting(
        "langchain-e2e", "MLflow experiment", env="MLFLOW_EXPERIMENT_NAME", metavar="NAME", group=STORE, check=_name
    )
    registered_model_name: str = setting(
        "langchain-e2e-model", "in the model registry",
        env="LIFECYCLE_REGISTERED_MODEL_NAME", metavar="NAME", group=STORE, check=_name,
    )  # fmt: skip
    staging_dir: Path = setting(
        DATA_ROOT / "local_staging", "scratch files, safe to delete between runs",
        env="LIFECYCLE_STAGING_DIR", flag="", group=FOLDERS, check=_absolute_path,
    )  # fmt: skip
    log_dir: Path = setting(
        DATA_ROOT / "local_mlflow_logs", "logs",
        env="LIFECYCLE_LOG_DIR", flag="", group=FOLDERS, check=_absolute_path,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.s3_access_key) != bool(self.s3_secret_key):
            raise ConfigError(
                "Of --s3-access-key and --s3-secret-key only one is given.",
                hint="Give both; or neither, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )

    @property
    def database_uri(self) -> str:
        """The database that is used when no server is."""
        if self.tracking_uri and not self.tracking_uri.startswith("http"):
            return self.tracking_uri
        return self.backend_store_uri
