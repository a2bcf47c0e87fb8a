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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from genai_lifecycle import interruption
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, GateRefused, LifecycleError, LimitCrossed, ProblemsFound, ServerDiffers

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
    serving = parser.add_argument_group("serving (serve, chat, verify, ui)")
    serving.add_argument("--port", type=int, help="port of the server (default: serve 5001, ui 5050)")
    serving.add_argument(
        "--url", help="chat, verify: a running server, http://HOST:PORT; chat's default: the champion, loaded here"
    )
    serving.add_argument("--start", action="store_true", help="serve: run the server instead of printing how")
    _add_bundle_flags(parser.add_argument_group("bundle (export, all)"))
    _add_prompt_flags(parser.add_argument_group("prompts"))
    _add_evaluation_flags(parser.add_argument_group("evaluation and gate (evaluate, rollback, test, prompts)"))
    _add_monitoring_flags(parser.add_argument_group("quality over time (monitor, import-feedback)"))
    _add_maintenance_flags(parser.add_argument_group("maintenance (relocate, clean)"))
    return parser


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
    group.add_argument("--tracking-uri", help="MLflow server or store; default: a server on port 5050, else SQLite")
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
    group.add_argument("--force", action="store_true", help="replace the bundle; prompts, relocate: all the same")
    group.add_argument("--wheels", action="store_true", help="with every wheel, for building without internet")
    group.add_argument("--s3-access-key", help="export: key of the S3 store; AWS_ACCESS_KEY_ID is not seen by others")
    group.add_argument("--s3-secret-key", help="export: its secret key; better: AWS_SECRET_ACCESS_KEY")


def _add_prompt_flags(group) -> None:
    group.add_argument(
        "prompt_action", nargs="?", metavar="ACTION",
        help="list (default), show, create, update, diff, delete, alias, rollback or history; docs/prompts.md. "
        "--force puts a version in production in spite of the gate, and deletes the one that is there",
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


def _add_maintenance_flags(group) -> None:
    group.add_argument("--from", dest="move_from", metavar="OLD", help="relocate: where the artifacts were")
    group.add_argument("--to", dest="move_to", metavar="NEW", help="relocate: the folder or s3:// address they are at")
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
        "--report", type=Path, metavar="FILE", help="monitor: the report (default: local_staging/monitor.md)"
    )
    group.add_argument(
        "--feedback-file", type=Path, metavar="FILE",
        help="import-feedback: a server's ledger (default: local_staging/feedback.jsonl)",
    )  # fmt: skip
    group.add_argument(
        "--to-cases", type=Path, metavar="FILE",
        help="import-feedback: write the questions that people judged as cases for evaluate; --force replaces the file",
    )  # fmt: skip


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


def _verify(config: E2EConfig) -> None:
    report = _opened(config, needs_model=False, writes=False).verify()
    _print_comparison(report)
    if report.differences:
        raise ServerDiffers(
            f"{report.url} differs from {report.model_uri} in "
            + ", ".join(check.name for check in report.differences)
            + ".",
            hint="Bring that version there (--mode export), or name the one that belongs there with --model-uri.",
        )


def _export(config: E2EConfig) -> None:
    _print_export(_opened(config, needs_model=False, writes=False).export())


def _server_config(config: E2EConfig) -> None:
    from genai_lifecycle.server_config import describe

    print(describe(replace(config, backend_store_uri=config.database_uri)))


def _prompts(config: E2EConfig) -> None:
    from genai_lifecycle.pipeline import MLflow3E2ELifecycle
    from genai_lifecycle.prompts import printed

    lifecycle = MLflow3E2ELifecycle(config, writes=False)
    if config.json:
        print(json.dumps(asdict(lifecycle.prompts()), indent=2, ensure_ascii=False))
        return
    result = lifecycle.prompts()
    print(f"Tracking   {lifecycle.store.description}\n")
    print(printed.text_of(result))


def _ui(config: E2EConfig) -> None:
    from genai_lifecycle.tracking.ui import run_ui

    run_ui(config, tell=_tell)


def _evaluate(config: E2EConfig) -> None:
    result = _opened(config, needs_model=False).evaluate()
    _print_evaluation(result)
    if result.decision is not None and not result.decision.allowed:
        raise GateRefused(
            f"The gate refused {result.evaluated[0].label}: {'; '.join(result.decision.reasons)}.",
            hint="No alias was moved. gate.yaml says what is asked; --force overrides it, and is recorded.",
        )


def _rollback(config: E2EConfig) -> None:
    for result in _opened(config, needs_model=False, writes=False).rollback():
        _tell(f"\nRollback    {result.name}: version {result.version} is {result.alias} again, not {result.replaced}")


def _relocate(config: E2EConfig) -> None:
    from genai_lifecycle.maintenance_text import of_relocation
    from genai_lifecycle.stages.relocate import relocate

    print(of_relocation(relocate(config)))


def _doctor(config: E2EConfig) -> None:
    from genai_lifecycle.maintenance_text import of_findings
    from genai_lifecycle.stages.doctor import examine, has_problem

    findings = examine(config)
    print(json.dumps([asdict(item) for item in findings], indent=2) if config.json else of_findings(findings))
    if has_problem(findings):
        raise ProblemsFound("There are problems.", hint="Each one's next step stands below it.")


def _clean(config: E2EConfig) -> None:
    from genai_lifecycle.maintenance_text import of_cleaning

    print(of_cleaning(_opened(config, needs_model=False, writes=config.apply).clean(), applied=config.apply))


def _import_feedback(config: E2EConfig) -> None:
    _print_import(config, _opened(config, needs_model=False, writes=False).import_feedback())


def _monitor(config: E2EConfig) -> None:
    result = _opened(config, needs_model=False).monitor()
    _print_monitor(result)
    if result.crossed:
        raise LimitCrossed(
            "; ".join(item.said for item in result.crossed) + ".",
            hint=" ".join(dict.fromkeys(item.advice for item in result.crossed)),
        )


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
    "verify": (_verify, "compare a running server (--url) with the registry, and say what differs"),
    "server-config": (_server_config, "print how to run an MLflow server over this storage"),
    "chat": (_chat, "talk with the champion, or with a running server (--url)"),
    "prompts": (_prompts, "list, show, create, update, diff, delete, alias, roll back prompts, or their history"),
    "evaluate": (_evaluate, "score prompts and versions over a case file (--cases), compare them; --promote the best"),
    "rollback": (_rollback, "put the former champion back; with --prompt NAME, the prompt's former version"),
    "import-feedback": (_import_feedback, "put a server's ledger of feedback on its traces; --to-cases FILE"),
    "monitor": (_monitor, "report on the servers' last days: figures, limits (monitor.yaml), drift"),
    "ui": (_ui, "open MLflow's UI over the store on port 5050, until Ctrl-C"),
    "relocate": (_relocate, "tell MLflow that the artifacts have moved (--from, --to); shows first, --apply does it"),
    "doctor": (_doctor, "what is wrong here, and the next step for each problem"),
    "clean": (_clean, "remove old runs and versions without an alias; shows first, --apply does it"),
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
    if report.decision:
        print(f"  gate {report.decision}")
    before = f"previous is version {report.previous}" if report.previous else "there is no previous version yet"
    print(f"  champion is version {report.champion}; {before}", flush=True)


def _print_evaluation(result) -> None:
    print(
        f"\nEvaluation  {result.cases} cases, {len(result.evaluated)} prompts, {result.rows} rows, run {result.run_id}"
        + (f", {result.reused} answers from before" if result.reused else "")
    )
    for item in result.evaluated:
        scores = [f"{name} {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" for name, found in item.scores.items()
                  if name in ("token_f1", "rouge_l", "passed")]  # fmt: skip
        print(f"  {item.label:24} {'  '.join(scores)}  {item.metrics['latency_ms']:.0f} ms")
        print(f"    experiment {item.experiment}, run {item.run_id}")
    if result.verdict:
        print(f"  {result.verdict}")
    print(f"  Judge: {result.judge}")
    for sentence in result.left_out:
        print(f"  Left out: {sentence}")
    if result.decision:
        print(f"  Gate: {result.decision}")
    print(f"  {result.compute_s:.0f} s answering and scoring, {result.mlflow_s:.0f} s MLflow's own writing", flush=True)


def _print_import(config: E2EConfig, result) -> None:
    print(f"\nFeedback    {_short(result.ledger)}: {result.entries} entries")
    print(f"  {result.imported} attached to their traces, {result.before} were there before")
    if result.without_trace:
        shown = ", ".join(result.without_trace[:5]) + (", ..." if len(result.without_trace) > 5 else "")
        print(f"  {len(result.without_trace)} without a trace (not sampled, or of another store): {shown}")
    for sentence in result.unreadable:
        print(f"  Not readable: {sentence}")
    if result.is_half_written:
        print("  The last line is half written; it is left for next time")
    for why, count in result.cases_left_out.items():
        print(f"  {count} judged requests gave no case: {why}")
    if config.to_cases:
        print(f"  {result.cases} cases" + (f" in {_short(result.cases_file)}" if result.cases_file else "; no file"))
    sys.stdout.flush()


def _print_monitor(result) -> None:
    from genai_lifecycle.monitoring.report import lines_of

    print(f"\nMonitor     {result.requests} requests, run {result.run_id}")
    for line in lines_of(result):
        print(f"  {line}")
    print(f"  report    {_short(result.report_file)}", flush=True)


def _print_plan(plan) -> None:
    print(f"\nServing     {plan.model_uri}")
    for what, command in plan.commands:
        print(f"  {what}\n    {command}")


def _print_comparison(report) -> None:
    alias = f" ({report.alias})" if report.alias else ""
    print(f"\nVerify      {report.url} beside {report.model_uri}{alias}")
    for check in report.checks:
        print(f"  {'same   ' if check.passed else 'DIFFERS'}  {check.name}: {check.detail}")
    sys.stdout.flush()


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
        _require_prompts_for_action(given)
        config = E2EConfig.from_env(given)
        _prepare(config, given.get("verbose", False))
        _require_export_for_keys(config, given["mode"])
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


def _require_prompts_for_action(given: Mapping[str, object]) -> None:
    """A word without a flag is the action of one mode, and a slip of the fingers in every other."""
    if "prompt_action" in given and given["mode"] != "prompts":
        raise ConfigError(
            f"--mode {given['mode']} takes no {given['prompt_action']!r}.",
            hint="python e2e_mlflow.py --help shows every flag.",
        )


def _require_export_for_keys(config: E2EConfig, mode: str) -> None:
    """Every other mode starts processes, or is run again and again: its keys come from the usual AWS places."""
    if config.s3_secret_key and mode != "export":
        raise ConfigError(
            f"--s3-access-key and --s3-secret-key are for --mode export, not for {mode}.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with AWS_PROFILE.",
        )


def _prepare(config: E2EConfig, verbose: bool) -> None:
    from genai_lifecycle.storage import session
    from genai_lifecycle.tracking.environment import prepare

    logging.basicConfig(
        level=logging.WARNING, format="%(message)s" if not verbose else "%(levelname)s %(name)s: %(message)s"
    )
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    prepare(config.staging_dir, verbose)
    session.prepare(config.s3_endpoint_url)
