"""The command line: the table of modes, printing, exit codes. No MLflow, no torch, no logic.

The flags are in flags.py, what a result reads like in text/. What is heavy is imported by a stage when it runs, so
that `--help` stays fast.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from genai_lifecycle.cli.flags import Mode, parse
from genai_lifecycle.cli.places import require_writable
from genai_lifecycle.cli.text import evaluation as evaluation_text
from genai_lifecycle.cli.text import life as life_text
from genai_lifecycle.cli.text import maintenance as maintenance_text
from genai_lifecycle.cli.text import prompts as prompts_text
from genai_lifecycle.cli.text import quality as quality_text
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import GateRefused, LifecycleError, LimitCrossed, ProblemsFound, ServerDiffers
from genai_lifecycle.lifecycle import MLflow3E2ELifecycle
from genai_lifecycle.models.bundle_place import require_bundle_place
from genai_lifecycle.runtime import interruption
from genai_lifecycle.runtime.atomic_write import write_whole
from genai_lifecycle.serving.client import first_key
from genai_lifecycle.stages.chat import HELP, ChatSettings, Session, open_partner, typed_lines
from genai_lifecycle.stages.clean import CleanSettings
from genai_lifecycle.stages.deploy import DeploySettings
from genai_lifecycle.stages.doctor import DoctorSettings, examine, has_problem
from genai_lifecycle.stages.evaluate import EvaluateSettings
from genai_lifecycle.stages.export import ExportSettings
from genai_lifecycle.stages.import_feedback import ImportFeedbackSettings
from genai_lifecycle.stages.monitor import MonitorSettings
from genai_lifecycle.stages.prompts import PromptsSettings
from genai_lifecycle.stages.relocate import RelocateSettings, relocate
from genai_lifecycle.stages.rollback import RollbackSettings
from genai_lifecycle.stages.serve import ServeSettings, StartSettings, run_server
from genai_lifecycle.stages.server_config import ServerConfigSettings, describe
from genai_lifecycle.stages.ui import UiSettings, run_ui
from genai_lifecycle.stages.verify import VerifySettings
from genai_lifecycle.store import environment
from genai_lifecycle.store.s3 import session
from genai_lifecycle.store.tracking_store import short

log = logging.getLogger("genai_lifecycle")

INTERRUPTED = 130  # what a shell expects after Ctrl-C
_GATE = "gate.yaml says what is asked; --override-gate lets it pass, on record."
SUMMARY_FILE = "last_run.json"  # below local_staging/: the whole result of --mode all, for programs


# --- modes ----------------------------------------------------------------------------------------


def _experiment(config: E2EConfig) -> None:
    require_writable(config, "staging_dir")
    result = _opened(config).experiment()
    _tell(evaluation_text.of_experiment(result))
    if result.decision is not None and not result.decision.allowed:
        raise GateRefused(
            f"The gate refused {result.winner.label}: {'; '.join(result.decision.reasons)}.",
            hint=f"{result.in_production or 'No version'} stays in production. {_GATE}",
        )


def _deploy(config: E2EConfig, settings: DeploySettings) -> None:
    require_writable(config, "staging_dir")
    _tell(life_text.of_deployment(_opened(config).deploy(settings)))


def _test(config: E2EConfig) -> None:
    require_writable(config, "staging_dir")
    _tell(life_text.of_report(_opened(config, needs_model=False).test()))


def _serve(config: E2EConfig, settings: ServeSettings, start: StartSettings) -> None:
    if start.start:
        require_writable(config, "log_dir")
    lifecycle = _opened(config, needs_model=False, writes=False)
    plan = lifecycle.serve(settings)
    if not start.start:
        _tell(life_text.of_plan(plan))
        return
    _tell(f"\nServing     {plan.model_uri}")
    if plan.hint:
        _tell(f"  {plan.hint}")
    run_server(config, lifecycle.store, settings, tell=_tell)


def _chat(config: E2EConfig, settings: ChatSettings) -> None:
    if not settings.server:
        _opened(config, needs_model=False, writes=False)
    partner = open_partner(config, settings, first_key())
    for_a_person = sys.stdin.isatty()
    if for_a_person:
        _tell(f"Ask away. {HELP}")
    session = Session(partner, lambda text: print(text, end="", flush=True), for_a_person)
    session.run(typed_lines() if for_a_person else sys.stdin)


def _verify(config: E2EConfig, settings: VerifySettings) -> None:
    require_writable(config, "staging_dir")
    report = _opened(config, needs_model=False, writes=False).verify(settings)
    _tell(quality_text.of_comparison(report))
    if report.differences:
        raise ServerDiffers(
            f"{report.url} differs from {report.model_uri} in "
            + ", ".join(check.name for check in report.differences)
            + ".",
            hint="Bring that version there (--mode export), or name the one that belongs there with --model-uri.",
        )


def _export(config: E2EConfig, settings: ExportSettings) -> None:
    require_writable(config, "staging_dir")
    require_bundle_place(config, settings.output_dir, overwrite=settings.overwrite)
    _tell(life_text.of_export(_opened(config, needs_model=False, writes=False).export(settings)))


def _server_config(config: E2EConfig, settings: ServerConfigSettings) -> None:
    print(describe(replace(config, backend_store_uri=config.database_uri), settings))


def _prompts(config: E2EConfig, settings: PromptsSettings) -> None:
    lifecycle = MLflow3E2ELifecycle(config, writes=False)
    result = lifecycle.prompts(settings)
    if settings.json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
        return
    print(f"Tracking   {lifecycle.store.description}\n")
    print(prompts_text.text_of(config, result))


def _ui(config: E2EConfig, settings: UiSettings) -> None:
    require_writable(config, "log_dir")
    run_ui(config, settings, tell=_tell)


def _evaluate(config: E2EConfig, settings: EvaluateSettings) -> None:
    require_writable(config, "staging_dir")
    result = _opened(config, needs_model=False).evaluate(settings)
    _tell(evaluation_text.of_evaluation(result))
    if result.decision is not None and not result.decision.allowed:
        raise GateRefused(
            f"The gate refused {result.winner.label}: {'; '.join(result.decision.reasons)}.",
            hint=f"No alias was moved. {_GATE}",
        )


def _rollback(config: E2EConfig, settings: RollbackSettings) -> None:
    for result in _opened(config, needs_model=False, writes=False).rollback(settings):
        _tell(f"\nRollback    {result.name}: version {result.version} is {result.alias} again, not {result.replaced}")


def _relocate(config: E2EConfig, settings: RelocateSettings) -> None:
    _tell(maintenance_text.of_relocation(relocate(config, settings)))


def _doctor(config: E2EConfig, settings: DoctorSettings) -> None:
    findings = examine(config)
    as_json = json.dumps([asdict(item) for item in findings], indent=2)
    _tell(as_json if settings.json else maintenance_text.of_findings(findings))
    if has_problem(findings):
        raise ProblemsFound("There are problems.", hint="Each one's next step stands below it.")


def _clean(config: E2EConfig, settings: CleanSettings) -> None:
    result = _opened(config, needs_model=False, writes=settings.apply).clean(settings)
    _tell(maintenance_text.of_cleaning(result, applied=settings.apply))


def _import_feedback(config: E2EConfig, settings: ImportFeedbackSettings) -> None:
    require_writable(config, "staging_dir")
    require_writable(settings, "to_cases")
    result = _opened(config, needs_model=False, writes=False).import_feedback(settings)
    _tell(quality_text.of_import(result, wants_cases=settings.to_cases is not None))


def _monitor(config: E2EConfig, settings: MonitorSettings) -> None:
    require_writable(config, "staging_dir")
    require_writable(settings, "report")
    result = _opened(config, needs_model=False).monitor(settings)
    _tell(quality_text.of_monitor(result))
    if result.crossed:
        raise LimitCrossed(
            "; ".join(item.message for item in result.crossed) + ".",
            hint=" ".join(dict.fromkeys(item.advice for item in result.crossed)),
        )


def _all(config: E2EConfig, deploy: DeploySettings, serve: ServeSettings, export: ExportSettings) -> None:
    require_writable(config, "staging_dir")
    require_bundle_place(config, export.output_dir, overwrite=export.overwrite)
    texts = {
        "experiment": evaluation_text.of_experiment, "deploy": life_text.of_deployment, "test": life_text.of_report,
        "export": life_text.of_export,
    }  # fmt: skip

    def done(stage: str, result: object) -> None:
        if stage in texts and result is not None:
            _tell(texts[stage](result))

    lifecycle = _opened(config)
    result = lifecycle.run_all(done, deploy=deploy, serve=serve, export=export)
    write_whole(config.staging_dir / SUMMARY_FILE, json.dumps(asdict(result), indent=2, default=str))
    _tell(life_text.of_summary(config, serve, lifecycle.source, result))


_LIFE = ("model", "cases", "max_new_tokens", "seed", "gate", "override_gate", "judge_model")  # of an experiment

MODES: dict[str, Mode] = {
    "experiment": Mode(
        _experiment, "compare the prompt templates in traced runs; the winner goes into production", shared=_LIFE
    ),
    "deploy": Mode(
        _deploy, "register model and prompt as a PyFunc, alias candidate", (DeploySettings,),
        shared=("model", "cases", "max_new_tokens", "engine"),
    ),
    "test": Mode(
        _test, "test the candidate in a fresh process; it becomes champion when it passes",
        shared=("cases", "gate", "override_gate"),
    ),
    "serve": Mode(
        _serve, "print how to serve the champion; with --start, run the server", (ServeSettings, StartSettings),
        shared=("engine", "feedback_file"),
    ),
    "export": Mode(
        _export, "write the champion and its server as a folder that Docker builds", (ExportSettings,),
        shared=("s3_keys",),
    ),
    "verify": Mode(
        _verify, "compare a running server (--url) with the registry, and say what differs", (VerifySettings,)
    ),
    "server-config": Mode(
        _server_config, "print how to run an MLflow server over this storage", (ServerConfigSettings,)
    ),
    "chat": Mode(
        _chat, "talk with the champion, or with a running server (--url)", (ChatSettings,), shared=("max_new_tokens",)
    ),
    "prompts": Mode(
        _prompts, "list, show, create, update, diff, delete, alias, roll back prompts, or their history",
        (PromptsSettings,), shared=("gate",),
    ),
    "evaluate": Mode(
        _evaluate, "score prompts and versions over a case file (--cases), compare them; --promote the best",
        (EvaluateSettings,), shared=("cases", "max_new_tokens", "seed", "gate", "override_gate", "judge_model"),
    ),
    "rollback": Mode(
        _rollback, "put the former champion back; with --prompt NAME, the prompt's former version", (RollbackSettings,)
    ),
    "import-feedback": Mode(
        _import_feedback, "put a server's ledger of feedback on its traces; --to-cases FILE",
        (ImportFeedbackSettings,), shared=("feedback_file", "serving_experiment"),
    ),
    "monitor": Mode(
        _monitor, "report on the servers' last days: figures, limits (monitor.yaml), drift", (MonitorSettings,),
        shared=("serving_experiment", "seed"),
    ),
    "ui": Mode(_ui, "open MLflow's UI over the store on port 5050, until Ctrl-C", (UiSettings,)),
    "relocate": Mode(
        _relocate, "tell MLflow that the artifacts have moved (--from, --to); shows first, --apply does it",
        (RelocateSettings,),
    ),
    "doctor": Mode(
        _doctor, "what is wrong here, and the next step for each problem", (DoctorSettings,), shared=("feedback_file",)
    ),
    "clean": Mode(
        _clean, "remove old runs and versions without an alias; shows first, --apply does it", (CleanSettings,)
    ),
    "all": Mode(
        _all, "experiment, deploy, test, serve, export, with a summary",
        (DeploySettings, ServeSettings, ExportSettings),
        shared=(*_LIFE, "engine"),
    ),
}  # fmt: skip


def _opened(config: E2EConfig, *, needs_model: bool = True, writes: bool = True):
    """The lifecycle with its store (and model) looked up, said in the first lines of output."""
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
        name, flags = parse(MODES, argv)
        mode = MODES[name]
        config = E2EConfig.from_env(flags, groups=mode.groups)
        own = [cls.from_env(flags) for cls in mode.settings]
        _prepare(config, verbose="verbose" in flags)
        with interruption.remembered():
            mode.run(config, *own)
    except LifecycleError as exc:
        log.debug("cause", exc_info=exc)
        print(f"Error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("Interrupted. The same command starts again where it is safe to.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _prepare(config: E2EConfig, *, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s" if not verbose else "%(levelname)s %(name)s: %(message)s"
    )
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    environment.prepare(config.staging_dir, verbose)
    session.prepare(config.s3_endpoint_url)
