"""The command line: arguments, the table of modes, printing, exit codes. No MLflow, no torch, no logic.

Each mode imports its stage inside its function, so that `--help` stays fast.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from genai_lifecycle import interruption
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, LifecycleError

log = logging.getLogger("genai_lifecycle")

INTERRUPTED = 130  # what a shell expects after Ctrl-C
_S3_VALUE = re.compile(r"(-s3[^\s:=]*[= ]+)\S+")  # a misspelt flag is named, the key behind it is not
SUMMARY_FILE = "last_run.json"  # below local_staging/: the whole result of --mode all, for programs


class _Parser(argparse.ArgumentParser):
    """Wrong usage is a ConfigError like any other wrong setting."""

    def error(self, message: str) -> NoReturn:
        message = _S3_VALUE.sub(r"\1***", f"{message[:1].upper()}{message[1:]}.")
        raise ConfigError(message, hint="python e2e_mlflow.py --help shows every flag.")


def build_parser() -> argparse.ArgumentParser:
    """Every flag, grouped by what it is for. A flag that is not given is absent from the result."""
    parser = _Parser(
        prog="e2e_mlflow.py",
        description="The whole life of a causal language model: experiment, deploy, test, serve, export.",
        epilog="Flags beat environment variables, environment variables beat defaults. Ctrl-C is safe at any moment.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", required=True, choices=list(MODES), metavar="MODE", help=_modes_help())
    parser.add_argument("-v", "--verbose", action="store_true", help="show what MLflow and the libraries say too")
    _add_model_flags(parser.add_argument_group("model and cases (experiment, deploy, test, all)"))
    _add_store_flags(parser.add_argument_group("where things are kept (every mode)"))
    serving = parser.add_argument_group("serving (serve, chat, ui)")
    serving.add_argument("--port", type=int, help="port of the server (default: serve 5001, ui 5050)")
    serving.add_argument("--url", help="chat: a running server, http://HOST:PORT; default: the champion, loaded here")
    serving.add_argument("--start", action="store_true", help="serve: run the server instead of printing how")
    _add_bundle_flags(parser.add_argument_group("bundle (export, all)"))
    return parser


def _add_model_flags(group) -> None:
    group.add_argument(
        "--model", help="folder or Hub name (gpt2, microsoft/DialoGPT-small); default: the bundled GPT-2"
    )
    group.add_argument("--model-revision", help="branch, tag or commit of a Hub model")
    group.add_argument("--turn-format", help="auto, plain or dialogue (DialoGPT's joined turns); default: auto")
    group.add_argument("--engine", help="auto, openvino or torch: what answers (default: auto)")
    group.add_argument("--precision", help="auto, fp32 or int8: weights of the openvino engine (default: auto)")
    group.add_argument("--cases", type=Path, help="JSON lines with question and reference")
    group.add_argument("--max-new-tokens", type=int, help="longest answer in tokens (default: 96)")
    group.add_argument("--seed", type=int, help="seed of the intervals' resampling (default: 0)")
    group.add_argument("--judge-model", help="judge for MLflow's GenAI scorers, for example openai:/gpt-4o-mini")


def _add_store_flags(group) -> None:
    group.add_argument("--tracking-uri", help="MLflow server or store; default: a server on port 5050, else SQLite")
    group.add_argument(
        "--backend-store-uri", help="database used without a server; default: local_mlflow_backend/mlflow.db"
    )
    group.add_argument("--data-dir", help="artifact root, a folder or s3://BUCKET/PREFIX; default: local_mlflow_backend/artifacts")
    group.add_argument("--s3-endpoint-url", help="where the artifacts are in MinIO or another S3 store: its address")
    group.add_argument("--experiment-name", help="MLflow experiment (default: langchain-e2e)")
    group.add_argument("--registered-model-name", help="name in the model registry (default: langchain-e2e-model)")


def _add_bundle_flags(group) -> None:
    group.add_argument("--model-uri", help="models:/NAME/VERSION or models:/NAME@ALIAS; default: the champion")
    group.add_argument("--output-dir", type=Path, help="folder of the bundle (default: exported_model)")
    group.add_argument("--force", action="store_true", help="replace the bundle that is in that folder")
    group.add_argument("--wheels", action="store_true", help="with every wheel, for building without internet")
    group.add_argument("--s3-access-key", help="export: key of the S3 store; AWS_ACCESS_KEY_ID is not seen by others")
    group.add_argument("--s3-secret-key", help="export: its secret key; better: AWS_SECRET_ACCESS_KEY")


# --- modes ----------------------------------------------------------------------------------------


def _experiment(config: E2EConfig) -> None:
    _print_experiment(_opened(config).experiment())


def _deploy(config: E2EConfig) -> None:
    _print_deployment(_opened(config).deploy())


def _test(config: E2EConfig) -> None:
    _print_report(_opened(config, needs_model=False).test())


def _serve(config: E2EConfig) -> None:
    lifecycle = _opened(config, needs_model=False, writes=False)
    plan = lifecycle.serve()
    _print_plan(plan)
    if config.start:
        from genai_lifecycle.stages.serve import run_server

        run_server(config, lifecycle.store, tell=_tell)


def _chat(config: E2EConfig) -> None:
    import os

    from genai_lifecycle.stages.chat import HELP, Session, open_partner, typed_lines

    if not config.url:
        _opened(config, needs_model=False, writes=False)
    partner = open_partner(config, os.environ.get("CHAT_API_KEY"))
    for_a_person = sys.stdin.isatty()
    if for_a_person:
        _tell(f"Ask away. {HELP}")
    session = Session(partner, lambda text: print(text, end="", flush=True), for_a_person)
    session.run(typed_lines() if for_a_person else sys.stdin)


def _export(config: E2EConfig) -> None:
    _print_export(_opened(config, needs_model=False, writes=False).export())


def _server_config(config: E2EConfig) -> None:
    from genai_lifecycle.server_config import describe

    print(describe(config))


def _ui(config: E2EConfig) -> None:
    from genai_lifecycle.tracking.ui import run_ui

    run_ui(config, tell=_tell)


def _all(config: E2EConfig) -> None:
    printers = {
        "experiment": _print_experiment, "deploy": _print_deployment, "test": _print_report, "export": _print_export
    }  # fmt: skip

    def done(stage: str, result: object) -> None:
        if stage in printers and result is not None:
            printers[stage](result)

    lifecycle = _opened(config)
    result = lifecycle.run_all(done)
    config.staging_dir.mkdir(parents=True, exist_ok=True)
    (config.staging_dir / SUMMARY_FILE).write_text(json.dumps(asdict(result), indent=2, default=str), "utf-8")
    _print_summary(config, lifecycle.source, result)


MODES: dict[str, tuple[Callable[[E2EConfig], None], str]] = {
    "experiment": (
        _experiment,
        "compare the prompt templates in traced runs; the winner goes into production",
    ),
    "deploy": (_deploy, "register model and prompt as a PyFunc, alias candidate"),
    "test": (_test, "test the candidate in a fresh process; it becomes champion when it passes"),
    "serve": (_serve, "print how to serve the champion; with --start, run the server"),
    "export": (_export, "write the champion and its server as a folder that Docker builds"),
    "server-config": (_server_config, "print how to run an MLflow server over this storage"),
    "chat": (_chat, "talk with the champion, or with a running server (--url)"),
    "ui": (_ui, "open MLflow's UI over the store on port 5050, until Ctrl-C"),
    "all": (_all, "experiment, deploy, test, serve, export, with a summary"),
}


def _modes_help() -> str:
    return "one of: " + "; ".join(f"{name} ({what})" for name, (_, what) in MODES.items())


def _opened(config: E2EConfig, *, needs_model: bool = True, writes: bool = True):
    """The lifecycle with its store (and model) looked up, said in the first lines of output."""
    from genai_lifecycle.pipeline import MLflow3E2ELifecycle
    from genai_lifecycle.tracking.store import short

    lifecycle = MLflow3E2ELifecycle(config, writes=writes)
    if needs_model:
        print(f"Model      {lifecycle.source}", flush=True)
    print(f"Tracking   {lifecycle.store.description}")
    print(f"Artifacts  {short(lifecycle.store.artifact_root)}", flush=True)
    return lifecycle


# --- printing -------------------------------------------------------------------------------------


def _tell(text: str) -> None:
    """A line that is seen at once, also through a pipe."""
    print(text, flush=True)


def _print_experiment(result) -> None:
    print(
        f"\nExperiment  {result.cases} cases, {len(result.scores)} prompts, {result.traces} traces, run {result.run_id}"
    )
    for score in result.scores:
        f1 = score.token_f1
        print(
            f"  {score.prompt!s:24} token F1 {f1.mean:.3f} [{f1.low:.3f}, {f1.high:.3f}]  "
            f"ended {score.metrics['ended_rate']:.0%}  {score.metrics['tokens_per_second']:.0f} tokens/s"
        )
    print(f"  {result.verdict}")
    print(f"  Judge: {result.judge}")
    print(f"  {result.winner} is in production", flush=True)


def _print_deployment(result) -> None:
    print(
        f"\nDeployment  {result.name} version {result.version} with prompt {result.prompt}, alias candidate",
        flush=True,
    )


def _print_report(report) -> None:
    print(f"\nTest        version {report.version}: {len(report.checks)} of {len(report.checks)} checks passed")
    for check in report.checks:
        print(f"  passed  {check.name}: {check.detail}")
    before = f"previous is version {report.previous}" if report.previous else "there is no previous version yet"
    print(f"  champion is version {report.champion}; {before}", flush=True)


def _print_plan(plan) -> None:
    print(f"\nServing     {plan.model_uri}")
    for what, command in plan.commands:
        print(f"  {what}\n    {command}")


def _print_export(result) -> None:
    alias = f" ({result.alias})" if result.alias else ""
    print(f"\nExport      {result.name} version {result.version}{alias}, engine {result.engine} {result.precision}")
    print(f"  folder    {_short(result.folder)}: {result.files} files, {result.size_bytes / 1e6:.0f} MB")
    print(f"  next      {_bundle_command(result)}   builds and starts {result.image}", flush=True)


def _bundle_command(result) -> str:
    return f"cd {shlex.quote(_short(result.folder))} && ./build.sh && ./run.sh"


def _short(folder: str) -> str:
    """A folder as one types it here."""
    path = Path(folder)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else folder


def _print_summary(config: E2EConfig, model, result) -> None:
    from genai_lifecycle.commands import mode_command

    report, best = result.report, result.experiment.verdict
    total_s = sum(result.seconds.values())
    print(f"\nSummary     {total_s:.0f} s: " + ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items()))
    before = f"previous is version {report.previous}" if report.previous else "no previous version"
    print(f"  model     {model}")
    print(f"  prompt    {best}")
    print(
        f"  version   {report.name} version {report.version} is champion, prompt {result.deployment.prompt}; {before}"
    )
    print(f"  test      {len(report.checks)} of {len(report.checks)} checks passed")
    print(f"  look      {mode_command(config, 'ui')}   then http://127.0.0.1:5050")
    print(f"  serve     {mode_command(config, 'serve', '--start')}   then http://127.0.0.1:5001/docs")
    if result.export:
        print(f"  bundle    {_bundle_command(result.export)}   then http://127.0.0.1:8000/docs")
    else:
        print(f"  bundle    not written: {result.export_declined}")


# --- entry ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one mode; returns the exit code (0, that of the LifecycleError, or 130 after Ctrl-C)."""
    try:
        given = vars(build_parser().parse_args(argv))
        config = E2EConfig.from_env(given)
        _prepare(config, given.get("verbose", False))
        with interruption.remembered():
            MODES[given["mode"]][0](config)
    except LifecycleError as exc:
        log.debug("cause", exc_info=exc)
        print(f"Error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("Interrupted. The same command starts again where it is safe to.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _prepare(config: E2EConfig, verbose: bool) -> None:
    from genai_lifecycle.tracking.environment import prepare

    logging.basicConfig(
        level=logging.WARNING, format="%(message)s" if not verbose else "%(levelname)s %(name)s: %(message)s"
    )
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    prepare(config.staging_dir, verbose)
