"""The command line: the table of modes, printing, exit codes. No MLflow, no torch, no logic.

The flags are in flags.py, what a result reads like in text/. Each mode imports its stage inside its
function, so that `--help` stays fast.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from genai_lifecycle.cli.flags import build_parser
from genai_lifecycle.cli.text import evaluation as evaluation_text
from genai_lifecycle.cli.text import life as life_text
from genai_lifecycle.cli.text import maintenance as maintenance_text
from genai_lifecycle.cli.text import quality as quality_text
from genai_lifecycle.config import PROGRAM, E2EConfig
from genai_lifecycle.errors import (
    ConfigError,
    GateRefused,
    LifecycleError,
    LimitCrossed,
    ProblemsFound,
    ServerDiffers,
)
from genai_lifecycle.runtime import interruption

log = logging.getLogger("genai_lifecycle")

INTERRUPTED = 130  # what a shell expects after Ctrl-C
_GATE = "gate.yaml says what is asked; --override-gate lets it pass, on record."
SUMMARY_FILE = "last_run.json"  # below local_staging/: the whole result of --mode all, for programs


# --- modes ----------------------------------------------------------------------------------------


def _experiment(config: E2EConfig) -> None:
    result = _opened(config).experiment()
    _tell(evaluation_text.of_experiment(result))
    if result.decision is not None and not result.decision.allowed:
        raise GateRefused(
            f"The gate refused {result.winner.label}: {'; '.join(result.decision.reasons)}.",
            hint=f"{result.in_production or 'No version'} stays in production. {_GATE}",
        )


def _deploy(config: E2EConfig) -> None:
    _tell(life_text.of_deployment(_opened(config).deploy()))


def _test(config: E2EConfig) -> None:
    _tell(life_text.of_report(_opened(config, needs_model=False).test()))


def _serve(config: E2EConfig) -> None:
    lifecycle = _opened(config, needs_model=False, writes=False)
    plan = lifecycle.serve()
    if not config.start:
        _tell(life_text.of_plan(plan))
        return
    from genai_lifecycle.stages.serve import run_server

    _tell(f"\nServing     {plan.model_uri}")
    if plan.hint:
        _tell(f"  {plan.hint}")
    run_server(config, lifecycle.store, tell=_tell)


def _chat(config: E2EConfig) -> None:
    from genai_lifecycle.serving.client import first_key
    from genai_lifecycle.stages.chat import HELP, Session, open_partner, typed_lines

    if not config.url:
        _opened(config, needs_model=False, writes=False)
    partner = open_partner(config, first_key())
    for_a_person = sys.stdin.isatty()
    if for_a_person:
        _tell(f"Ask away. {HELP}")
    session = Session(partner, lambda text: print(text, end="", flush=True), for_a_person)
    session.run(typed_lines() if for_a_person else sys.stdin)


def _verify(config: E2EConfig) -> None:
    report = _opened(config, needs_model=False, writes=False).verify()
    _tell(quality_text.of_comparison(report))
    if report.differences:
        raise ServerDiffers(
            f"{report.url} differs from {report.model_uri} in "
            + ", ".join(check.name for check in report.differences)
            + ".",
            hint="Bring that version there (--mode export), or name the one that belongs there with --model-uri.",
        )


def _export(config: E2EConfig) -> None:
    _tell(life_text.of_export(_opened(config, needs_model=False, writes=False).export()))


def _server_config(config: E2EConfig) -> None:
    from genai_lifecycle.serving.mlflow_server import describe

    print(describe(replace(config, backend_store_uri=config.database_uri)))


def _prompts(config: E2EConfig) -> None:
    from genai_lifecycle.cli.text import prompts as printed
    from genai_lifecycle.lifecycle import MLflow3E2ELifecycle

    lifecycle = MLflow3E2ELifecycle(config, writes=False)
    if config.json:
        print(json.dumps(asdict(lifecycle.prompts()), indent=2, ensure_ascii=False))
        return
    result = lifecycle.prompts()
    print(f"Tracking   {lifecycle.store.description}\n")
    print(printed.text_of(config, result))


def _ui(config: E2EConfig) -> None:
    from genai_lifecycle.stages.ui import run_ui

    run_ui(config, tell=_tell)


def _evaluate(config: E2EConfig) -> None:
    result = _opened(config, needs_model=False).evaluate()
    _tell(evaluation_text.of_evaluation(result))
    if result.decision is not None and not result.decision.allowed:
        raise GateRefused(
            f"The gate refused {result.winner.label}: {'; '.join(result.decision.reasons)}.",
            hint=f"No alias was moved. {_GATE}",
        )


def _rollback(config: E2EConfig) -> None:
    for result in _opened(config, needs_model=False, writes=False).rollback():
        _tell(f"\nRollback    {result.name}: version {result.version} is {result.alias} again, not {result.replaced}")


def _relocate(config: E2EConfig) -> None:
    from genai_lifecycle.stages.relocate import relocate

    _tell(maintenance_text.of_relocation(relocate(config)))


def _doctor(config: E2EConfig) -> None:
    from genai_lifecycle.stages.doctor import examine, has_problem

    findings = examine(config)
    as_json = json.dumps([asdict(item) for item in findings], indent=2)
    _tell(as_json if config.json else maintenance_text.of_findings(findings))
    if has_problem(findings):
        raise ProblemsFound("There are problems.", hint="Each one's next step stands below it.")


def _clean(config: E2EConfig) -> None:
    result = _opened(config, needs_model=False, writes=config.apply).clean()
    _tell(maintenance_text.of_cleaning(result, applied=config.apply))


def _import_feedback(config: E2EConfig) -> None:
    result = _opened(config, needs_model=False, writes=False).import_feedback()
    _tell(quality_text.of_import(result, wants_cases=config.to_cases is not None))


def _monitor(config: E2EConfig) -> None:
    result = _opened(config, needs_model=False).monitor()
    _tell(quality_text.of_monitor(result))
    if result.crossed:
        raise LimitCrossed(
            "; ".join(item.said for item in result.crossed) + ".",
            hint=" ".join(dict.fromkeys(item.advice for item in result.crossed)),
        )


def _all(config: E2EConfig) -> None:
    from genai_lifecycle.runtime.atomic_write import write_whole

    texts = {
        "experiment": evaluation_text.of_experiment, "deploy": life_text.of_deployment, "test": life_text.of_report,
        "export": life_text.of_export,
    }  # fmt: skip

    def done(stage: str, result: object) -> None:
        if stage in texts and result is not None:
            _tell(texts[stage](result))

    lifecycle = _opened(config)
    result = lifecycle.run_all(done)
    write_whole(config.staging_dir / SUMMARY_FILE, json.dumps(asdict(result), indent=2, default=str))
    _tell(life_text.of_summary(config, lifecycle.source, result))


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


def _opened(config: E2EConfig, *, needs_model: bool = True, writes: bool = True):
    """The lifecycle with its store (and model) looked up, said in the first lines of output."""
    from genai_lifecycle.lifecycle import MLflow3E2ELifecycle
    from genai_lifecycle.store.tracking_store import short

    lifecycle = MLflow3E2ELifecycle(config, writes=writes)
    if needs_model:
        print(f"Model      {lifecycle.source}", flush=True)
    print(f"Tracking   {lifecycle.store.description}")
    if lifecycle.store.elsewhere:
        place = f"{config.experiment_name} has its artifacts in {short(lifecycle.store.elsewhere)}"
        print(f"Experiment {lifecycle.store.experiment_name} ({place})")
    print(f"Artifacts  {short(lifecycle.store.artifact_root) or 'where the server keeps them'}", flush=True)
    return lifecycle


def _tell(text: str) -> None:
    """Seen at once, also through a pipe."""
    print(text, flush=True)


# --- entry ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one mode; returns the exit code (0, that of the LifecycleError, or 130 after Ctrl-C)."""
    try:
        given = vars(build_parser({name: what for name, (_, what) in MODES.items()}).parse_args(argv))
        _require_prompts_for_action(given)
        config = E2EConfig.from_env(given)
        _prepare(config, given.get("verbose", False))
        _require_export_for_keys(config, given["mode"])
        _require_places(config, given["mode"])
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
            hint=f"{PROGRAM} --help shows every flag.",
        )


def _require_export_for_keys(config: E2EConfig, mode: str) -> None:
    """Every other mode starts processes, or is run again and again: its keys come from the usual AWS places."""
    if config.s3_secret_key and mode != "export":
        raise ConfigError(
            f"--s3-access-key and --s3-secret-key are for --mode export, not for {mode}.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with AWS_PROFILE.",
        )


def _require_places(config: E2EConfig, mode: str) -> None:
    from genai_lifecycle.cli.places import require_writable

    require_writable(config, mode)


def _prepare(config: E2EConfig, verbose: bool) -> None:
    from genai_lifecycle.store.environment import prepare
    from genai_lifecycle.store.s3 import session

    logging.basicConfig(
        level=logging.WARNING, format="%(message)s" if not verbose else "%(levelname)s %(name)s: %(message)s"
    )
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    prepare(config.staging_dir, verbose)
    session.prepare(config.s3_endpoint_url)
