"""Every flag of the command line, and what --help says of it. What a mode does with its flags is in main.py."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from genai_lifecycle.config import PROGRAM
from genai_lifecycle.errors import ConfigError

_S3_VALUE = re.compile(r"(-s3[^\s:=]*[= ]+)\S+")  # a misspelt flag is named, the key behind it is not


class _Parser(argparse.ArgumentParser):
    """Wrong usage is a ConfigError like any other wrong setting."""

    def error(self, message: str) -> NoReturn:
        message = _S3_VALUE.sub(r"\1***", f"{message[:1].upper()}{message[1:]}.")
        start = "Begin with --mode all. " if "required: --mode" in message else ""
        raise ConfigError(message, hint=f"{start}{PROGRAM} --help shows every mode and flag.")


class _ForceFlag(argparse.Action):
    """`--force` meant different things in different modes; each has a flag of its own now."""

    def __call__(self, *_) -> NoReturn:
        raise ConfigError(
            "There is no --force any more: it meant different things in different modes.",
            hint="--overwrite replaces a changed bundle or a case file, --override-gate overrides gate.yaml, "
            "--even-in-production deletes a prompt that is in use, --allow-missing relocates in spite of lost models.",
        )


def build_parser(modes: Mapping[str, str]) -> argparse.ArgumentParser:
    """Every flag, grouped by what it is for. A flag that is not given is absent from the result.

    Args:
        modes: name -> what it does.
    """
    parser = _Parser(
        prog=PROGRAM.removeprefix("python "),
        description="The whole life of a causal language model: experiment, deploy, test, serve, export.",
        epilog="Flags beat environment variables, environment variables beat defaults. Ctrl-C is safe at any moment.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", required=True, choices=list(modes), metavar="MODE", help=_help_of(modes))
    parser.add_argument("-v", "--verbose", action="store_true", help="show what MLflow and the libraries say too")
    parser.add_argument("--force", action=_ForceFlag, nargs=0, help=argparse.SUPPRESS)
    _add_model_flags(parser.add_argument_group("model and cases (experiment, deploy, test, all)"))
    _add_store_flags(parser.add_argument_group("where things are kept (every mode)"))
    serving = parser.add_argument_group("serving (serve, chat, verify, ui)")
    serving.add_argument("--port", type=int, help="port of the server (default: serve 5001, ui 5050)")
    serving.add_argument(
        "--url",
        help="chat, verify: a running server, http://HOST:PORT (its key from API_KEYS); "
        "chat's default: CHAT_URL, else the champion, loaded here",
    )
    serving.add_argument("--start", action="store_true", help="serve: run the server instead of printing how")
    _add_bundle_flags(parser.add_argument_group("bundle (export, all)"))
    _add_prompt_flags(parser.add_argument_group("prompts"))
    _add_evaluation_flags(parser.add_argument_group("evaluation and gate (evaluate, rollback, test, prompts)"))
    _add_monitoring_flags(parser.add_argument_group("quality over time (monitor, import-feedback)"))
    _add_maintenance_flags(parser.add_argument_group("maintenance (relocate, clean)"))
    return parser


def _help_of(modes: Mapping[str, str]) -> str:
    return "one of: " + "; ".join(f"{name} ({what})" for name, what in modes.items())


def _add_model_flags(group) -> None:
    group.add_argument(
        "--model", help="folder or Hub name (gpt2, microsoft/DialoGPT-small); default: the bundled GPT-2"
    )
    group.add_argument("--model-revision", help="branch, tag or commit of a Hub model")
    group.add_argument("--turn-format", help="auto, plain or dialogue (DialoGPT's joined turns); default: auto")
    group.add_argument("--engine", help="auto, openvino or torch: what answers (default: auto)")
    group.add_argument("--precision", help="auto, fp32 or int8: weights of the openvino engine (default: auto)")
    group.add_argument("--cases", type=Path, help="cases: JSON lines, CSV, or YAML in promptfoo's shape")
    group.add_argument("--max-new-tokens", type=int, help="longest answer in tokens (default: 96)")
    group.add_argument("--seed", type=int, help="seed of the intervals' resampling (default: 0)")
    group.add_argument("--judge-model", help="judge for MLflow's GenAI scorers, for example openai:/gpt-4o-mini")


def _add_store_flags(group) -> None:
    group.add_argument(
        "--tracking-uri",
        help="MLflow server or store (sqlite:///FILE: relative to the current directory); default: a server on port "
        "5050, else SQLite",
    )
    group.add_argument(
        "--backend-store-uri", help="database used without a server; default: local_mlflow_backend/mlflow.db"
    )
    group.add_argument(
        "--data-dir", help="artifact root, a folder or s3://BUCKET/PREFIX; default: local_mlflow_backend/artifacts"
    )
    group.add_argument("--s3-endpoint-url", help="where the artifacts are in MinIO or another S3 store: its address")
    group.add_argument("--experiment-name", help="MLflow experiment (default: langchain-e2e)")
    group.add_argument("--registered-model-name", help="name in the model registry (default: langchain-e2e-model)")


def _add_bundle_flags(group) -> None:
    group.add_argument("--model-uri", help="models:/NAME/VERSION or models:/NAME@ALIAS; default: the champion")
    group.add_argument("--output-dir", type=Path, help="folder of the bundle (default: exported_model)")
    group.add_argument(
        "--overwrite", action="store_true",
        help="replace also a bundle that was changed since it was written, or a folder that is none; "
        "import-feedback: the case file",
    )  # fmt: skip
    group.add_argument("--wheels", action="store_true", help="with every wheel, for building without internet")
    group.add_argument("--s3-access-key", help="export: key of the S3 store; AWS_ACCESS_KEY_ID is not seen by others")
    group.add_argument("--s3-secret-key", help="export: its secret key; better: AWS_SECRET_ACCESS_KEY")


def _add_prompt_flags(group) -> None:
    group.add_argument(
        "prompt_action", nargs="?", metavar="ACTION",
        help="list (default), show, create, update, diff, delete, alias, rollback or history; docs/prompts.md",
    )  # fmt: skip
    group.add_argument(
        "--name", dest="prompt_name", metavar="NAME", help="the prompt's name; every action but list needs it"
    )
    group.add_argument(
        "--template", dest="prompt_template", metavar="TEXT",
        help="its text: {{question}} is a variable, a single { is text",
    )  # fmt: skip
    group.add_argument(
        "--template-file", dest="prompt_template_file", type=Path, metavar="FILE",
        help="the same from a file; its last line break goes",
    )  # fmt: skip
    group.add_argument(
        "--commit-message", dest="prompt_commit_message", metavar="TEXT", help="why there is a new version"
    )
    group.add_argument(
        "--tag", dest="prompt_tags", action="append", metavar="KEY=VALUE", help="of the version; may be given again"
    )
    group.add_argument(
        "--version", dest="prompt_version", type=int, metavar="NUMBER", help="show, diff, delete, alias: which version"
    )
    group.add_argument(
        "--alias", dest="prompt_alias", metavar="ALIAS", help="show, diff, alias: for example production"
    )
    group.add_argument(
        "--even-in-production", action="store_true",
        help="delete: what is in production too; servers then use the prompt frozen in their model",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_evaluation_flags(group) -> None:
    group.add_argument(
        "--prompt", action="append", metavar="NAME@ALIAS|NAME/VERSION",
        help="evaluate: may be given again; default: those in the case file, else the model's own. "
        "rollback: the prompt whose former version comes back",
    )  # fmt: skip
    group.add_argument(
        "--model-version", action="append", metavar="NUMBER|ALIAS",
        help="evaluate: may be given again; default: the champion",
    )  # fmt: skip
    group.add_argument(
        "--scorer", action="append", metavar="NAME",
        help="evaluate: a scorer of mlflow.genai, for example Correctness; may be given again",
    )  # fmt: skip
    group.add_argument("--label", help="evaluate: a word to find the runs by (default: the case file's name)")
    group.add_argument("--promote", action="store_true", help="evaluate: the best prompt goes into production")
    group.add_argument("--gate", type=Path, metavar="FILE", help="what a new version must show (default: gate.yaml)")
    group.add_argument(
        "--override-gate", action="store_true",
        help="experiment, test, evaluate, prompts, all: let the version pass whatever the gate finds; recorded",
    )  # fmt: skip


def _add_maintenance_flags(group) -> None:
    group.add_argument("--from", dest="move_from", metavar="OLD", help="relocate: where the artifacts were")
    group.add_argument("--to", dest="move_to", metavar="NEW", help="relocate: the folder or s3:// address they are at")
    group.add_argument(
        "--allow-missing", action="store_true", help="relocate: rewrite although some models are not at the new place"
    )
    group.add_argument(
        "--older-than", dest="older_than_days", type=int, metavar="DAYS", help="clean: younger ones stay (default: 30)"
    )
    group.add_argument(
        "--keep", type=int, metavar="N", help="clean: the newest N of each kind stay, however old (default: 5)"
    )
    group.add_argument("--apply", action="store_true", help="relocate, clean: do it; else they show what they would do")


def _add_monitoring_flags(group) -> None:
    group.add_argument("--days", type=int, help="how many days back (default: 7)")
    group.add_argument("--serving-experiment", metavar="NAME", help="of the servers' traces (default: serving)")
    group.add_argument("--limits", type=Path, metavar="FILE", help="monitor: its limits (default: monitor.yaml)")
    group.add_argument(
        "--report", type=Path, metavar="FILE", help="monitor: a copy of the report (default: local_staging/monitor.md)"
    )
    group.add_argument(
        "--feedback-file", type=Path, metavar="FILE",
        help="import-feedback: a server's ledger (default: local_mlflow_backend/feedback.jsonl)",
    )  # fmt: skip
    group.add_argument(
        "--to-cases", type=Path, metavar="FILE",
        help="import-feedback: write the questions that people judged as cases for evaluate, into a new file",
    )  # fmt: skip
