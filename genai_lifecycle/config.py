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
from urllib.parse import urlsplit

from genai_lifecycle.errors import ConfigError
from genai_lifecycle.runtime.addresses import absolute_address, without_password
from genai_lifecycle.runtime.s3_address import S3Root, is_s3

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
TURN_FORMATS = ("auto", "plain", "dialogue")
ENGINES = ("auto", "openvino", "torch")
PRECISIONS = ("auto", "fp32", "int8")

# Environment variable of each setting that has one. MLFLOW_* are MLflow's own names.
ENVIRONMENT = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "backend_store_uri": "MLFLOW_BACKEND_STORE_URI",
    "experiment_name": "MLFLOW_EXPERIMENT_NAME",
    "data_dir": "LIFECYCLE_DATA_DIR",
    "staging_dir": "LIFECYCLE_STAGING_DIR",
    "log_dir": "LIFECYCLE_LOG_DIR",
    "s3_endpoint_url": "MLFLOW_S3_ENDPOINT_URL",
    "model": "LIFECYCLE_MODEL",
    "registered_model_name": "LIFECYCLE_REGISTERED_MODEL_NAME",
    "judge_model": "LIFECYCLE_JUDGE_MODEL",
    "url": "CHAT_URL",  # of mode chat only
    "engine": "ENGINE",
    "precision": "PRECISION",
    "serving_experiment": "TRACE_EXPERIMENT",
    "feedback_file": "FEEDBACK_FILE",
}


def _settings_file(name: str) -> Path:
    """The file that people edit, at the data root; an installed copy brings one along for who has none."""
    own = DATA_ROOT / name
    return own if IS_CHECKOUT or own.exists() else CHECKOUT / "genai_lifecycle" / "defaults" / name


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
    # None = a server on port 5050, else the backend store directly. Neither is shown: a password may be in it.
    tracking_uri: str | None = field(default=None, repr=False)
    backend_store_uri: str = field(default=f"sqlite:///{DATA_ROOT / 'local_mlflow_backend' / 'mlflow.db'}", repr=False)
    data_dir: str = str(DATA_ROOT / "local_mlflow_backend" / "artifacts")  # artifact root: a folder or s3://
    staging_dir: Path = DATA_ROOT / "local_staging"  # scratch, safe to delete between runs
    log_dir: Path = DATA_ROOT / "local_mlflow_logs"
    max_new_tokens: int = 96
    seed: int = 0
    port: int | None = None  # None = 5050 for `ui`, 5001 for `serve`
    judge_model: str | None = None  # MLflow judge address, for example openai:/gpt-4o-mini
    start: bool = False  # serve: run the server instead of printing how
    model_uri: str | None = None  # export: models:/NAME/VERSION or models:/NAME@ALIAS; None = the champion
    output_dir: Path = DATA_ROOT / "exported_model"  # export: where the bundle is written
    overwrite: bool = False  # export: also a bundle that was changed, or another folder; import-feedback: the case file
    wheels: bool = False  # export: with the wheels of the lock, for a build without internet
    url: str | None = None  # chat, verify: a running server; None = chat loads the version here
    prompt_action: str | None = None  # prompts: what to do; None = list
    prompt_name: str | None = None  # prompts: which one
    prompt_template: str | None = None  # prompts: its text; or
    prompt_template_file: Path | None = None  # prompts: the file with it
    prompt_commit_message: str = ""  # prompts: why there is a new version
    prompt_tags: tuple[str, ...] = ()  # prompts: KEY=VALUE, of the new version
    prompt_version: int | None = None  # prompts: of which version
    prompt_alias: str | None = None  # prompts: of which alias
    even_in_production: bool = False  # prompts: delete what is in production too
    json: bool = False  # prompts, doctor: print JSON
    prompt: tuple[str, ...] = ()  # evaluate, rollback: NAME@ALIAS, NAME/VERSION or NAME; () = the model's own
    model_version: tuple[str, ...] = ()  # evaluate: numbers or aliases; () = the champion, else the candidate
    scorer: tuple[str, ...] = ()  # evaluate: scorers of mlflow.genai by name
    label: str | None = None  # evaluate: a word to find the runs by; None = the case file's name
    promote: bool = False  # evaluate: the winner goes into production where the gate lets it
    gate: Path = _settings_file("gate.yaml")  # what a version must show before it may replace the one in use
    override_gate: bool = False  # let it replace that one whatever the gate finds, and record it
    days: int = 7  # monitor, import-feedback --to-cases: how far back
    serving_experiment: str = "serving"  # monitor, import-feedback: where the servers' traces are
    limits: Path = _settings_file("monitor.yaml")  # monitor: the limits of a period
    report: Path = DATA_ROOT / "local_staging" / "monitor.md"  # monitor: a copy of the report, which the run keeps
    feedback_file: Path = FEEDBACK_FILE  # import-feedback: a server's ledger
    to_cases: Path | None = None  # import-feedback: the case file to write
    move_from: str | None = None  # relocate: where the artifacts were, a folder or s3://
    move_to: str | None = None  # relocate: where they are now
    allow_missing: bool = False  # relocate: rewrite although models are not there
    older_than_days: int = 30  # clean: younger ones stay
    keep: int = 5  # clean: so many of each kind stay, however old
    apply: bool = False  # relocate, clean: do it instead of showing what would be done
    s3_endpoint_url: str | None = None  # of MinIO or another store; None = Amazon's S3
    s3_access_key: str | None = field(default=None, repr=False)  # export only; else the usual AWS places
    s3_secret_key: str | None = field(default=None, repr=False)
    from_environment: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # names of settings

    def __post_init__(self) -> None:
        for name in ("limits", "report", "feedback_file", "to_cases"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)).expanduser())
        for name in ("cases", "staging_dir", "log_dir", "output_dir", "gate"):
            object.__setattr__(self, name, Path(getattr(self, name)).expanduser())
        for name in ("staging_dir", "log_dir"):  # processes that run elsewhere are given these
            object.__setattr__(self, name, getattr(self, name).absolute())
        for name in ("prompt", "model_version", "scorer"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_names()
        self._check_ranges()
        self._check_addresses()
        self._check_export()
        self._check_maintenance()

    @classmethod
    def from_env(cls, given: Mapping[str, object], env: Mapping[str, str] = os.environ) -> E2EConfig:
        """Settings from flags (`given`, without the ones that were not used), then `env`, then defaults."""
        values = {name: env[variable] for name, variable in ENVIRONMENT.items() if env.get(variable)}
        if given.get("mode") != "chat" or given.get("model_uri"):  # a partner of its own, which a flag replaces
            values.pop("url", None)
        known = {field.name for field in fields(cls)}
        flags = {name: value for name, value in given.items() if name in known and value is not None}
        return cls(**values | flags, from_environment=frozenset(values.keys() - flags.keys()))

    @property
    def database_uri(self) -> str:
        """The database that is used when no server is."""
        named = self.tracking_uri and not self.tracking_uri.startswith("http")
        return self.tracking_uri if named else self.backend_store_uri

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
        if not 1 <= self.days <= 3650:
            raise ConfigError(f"days is {self.days}.", hint="Use a value from 1 to 3650.")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}.", hint="Use a value from 1 to 65535.")

    def _check_addresses(self) -> None:
        if self.tracking_uri and not re.match(r"(https?|sqlite|postgresql(\+\w+)?)://", self.tracking_uri):
            raise ConfigError(
                f"tracking_uri is {without_password(self.tracking_uri)!r}.",
                hint="Use http://HOST:PORT of an MLflow server, sqlite:///FILE, or postgresql://USER@HOST/DATABASE.",
            )
        if self.tracking_uri and not _has_host(self.tracking_uri):
            raise ConfigError("tracking_uri has no host in it.", hint="Use http://HOST:PORT of an MLflow server.")
        if not re.match(r"(sqlite|postgresql(\+\w+)?)://", self.backend_store_uri):
            raise ConfigError(
                f"backend_store_uri is {without_password(self.backend_store_uri)!r}.",
                hint="Use sqlite:///FILE, or postgresql://USER@HOST/DATABASE.",
            )
        for name in ("tracking_uri", "backend_store_uri"):
            self._make_absolute(name)
        if is_s3(self.data_dir):
            self._check_s3_root()
        elif "://" in self.data_dir:
            raise ConfigError(f"data_dir is {self.data_dir!r}.", hint="Use a folder, or s3://BUCKET/PREFIX.")
        else:
            object.__setattr__(self, "data_dir", os.path.abspath(self.data_dir))

    def _make_absolute(self, name: str) -> None:
        """A relative file is one of the current directory, for the processes that we start elsewhere too."""
        value = getattr(self, name)
        try:
            object.__setattr__(self, name, value and absolute_address(value))
        except ValueError as exc:
            raise ConfigError(
                f"{name} is {without_password(value)!r}: {exc}.",
                hint="Use sqlite:///FILE, relative to the current directory, or sqlite:////FOLDER/FILE.",
            ) from None

    def _check_s3_root(self) -> None:
        """The address itself stays out of the message: there may be a key in it."""
        try:
            object.__setattr__(self, "data_dir", str(S3Root.parse(self.data_dir)))
        except ValueError as exc:
            raise ConfigError(
                f"data_dir is no address in S3: {exc}.",
                hint="Use s3://BUCKET/PREFIX; keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            ) from None

    def _check_export(self) -> None:
        """The S3 values themselves stay out of every message."""
        if self.model_uri is not None and not _MODEL_URI.fullmatch(self.model_uri):
            raise ConfigError(
                f"model_uri is {self.model_uri!r}.",
                hint="Use models:/NAME/VERSION or models:/NAME@ALIAS; leave it out for the champion.",
            )
        if self.url and not re.match(r"https?://[^/]", self.url):
            raise ConfigError(
                f"url is {without_password(self.url)!r}.", hint="Use http://HOST:PORT of a running server."
            )
        if self.s3_endpoint_url and not re.match(r"https?://[^/]", self.s3_endpoint_url):
            raise ConfigError("s3_endpoint_url is no address.", hint="Use http://HOST:PORT or https://HOST.")
        if self.s3_endpoint_url and "@" in self.s3_endpoint_url:
            raise ConfigError(
                "s3_endpoint_url has a key in it.", hint="Use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the keys."
            )
        if bool(self.s3_access_key) != bool(self.s3_secret_key):
            raise ConfigError(
                "Of --s3-access-key and --s3-secret-key only one is given.",
                hint="Give both; or neither, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            )

    def _check_maintenance(self) -> None:
        for name, unit in (("older_than_days", "days"), ("keep", "how many stay")):
            if not 0 <= getattr(self, name) <= 36_500:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}.", hint=f"Use a whole number from 0 to 36500 ({unit})."
                )
        for flag, value in (("--from", self.move_from), ("--to", self.move_to)):
            if value is not None and not value.strip("/. "):
                raise ConfigError(f"{flag} is {value!r}.", hint="Name a folder below the root, or s3://BUCKET/PREFIX.")
            if value and "://" in value and not is_s3(value):
                raise ConfigError(
                    f"{flag} is {without_password(value)!r}.", hint="Use a folder, or s3://BUCKET/PREFIX."
                )


def _has_host(uri: str) -> bool:
    """Whether the address of a server names one; other addresses have their own checks."""
    try:
        return not uri.startswith("http") or bool(urlsplit(uri).hostname)
    except ValueError:  # a bracket without its other half
        return False
