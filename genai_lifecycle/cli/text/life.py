"""What deploy, test, serve, export and all tell a person, as text. `main.py` prints it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from genai_lifecycle.config import LOCAL_SERVER_PORT, E2EConfig
from genai_lifecycle.serving.commands import as_typed, mode_command
from genai_lifecycle.stages.serve import ServeSettings, port_flag

if TYPE_CHECKING:
    from genai_lifecycle.lifecycle import LifecycleResult
    from genai_lifecycle.stages.deploy import DeploymentResult
    from genai_lifecycle.stages.export import ExportResult
    from genai_lifecycle.stages.serve import ServePlan
    from genai_lifecycle.stages.test import VerificationReport


def of_deployment(result: DeploymentResult) -> str:
    """What was registered."""
    return f"\nDeployment  {result.name} version {result.version} with prompt {result.prompt.label}, alias candidate"


def of_report(report: VerificationReport) -> str:
    """A line for each check, and where the aliases are now."""
    lines = [f"\nTest        version {report.version}: {_passed(report)}"]
    lines += [f"  {'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}" for check in report.checks]
    lines += [f"  Gate: {report.decision}"] if report.decision else []
    before = f"previous is version {report.previous}" if report.previous else "there is no previous version yet"
    return "\n".join([*lines, f"  champion is version {report.champion}; {before}"])


def _passed(report: VerificationReport) -> str:
    return f"{sum(check.passed for check in report.checks)} of {len(report.checks)} checks passed"


def of_plan(plan: ServePlan) -> str:
    """The commands that serve it, each with what it is for."""
    lines = [f"  {what}\n    {does}" for what, does in plan.commands]
    return "\n".join([f"\nServing     {plan.model_uri}", *([f"  {plan.hint}"] if plan.hint else []), *lines])


def of_export(result: ExportResult) -> str:
    """Which version is in the bundle, and how to start it."""
    alias = f" ({result.alias})" if result.alias else ""
    return "\n".join([
        f"\nExport      {result.name} version {result.version}{alias}, engine {result.engine} {result.precision}",
        f"  folder    {as_typed(result.folder)}: {result.files} files, {result.size_bytes / 1e6:.0f} MB",
        f"  next      {_start(result)}   builds and starts {result.image}",
    ])  # fmt: skip


def _start(result: ExportResult) -> str:
    return f"cd {shlex.quote(as_typed(result.folder))} && ./build.sh && ./run.sh"


def of_summary(config: E2EConfig, serve: ServeSettings, model: object, result: LifecycleResult) -> str:
    """What a person wants to know at the end of `--mode all`, and what to type next."""
    report, total_s = result.report, sum(result.seconds.values())
    before = f"previous is version {report.previous}" if report.previous else "no previous version"
    version = f"{report.name} version {report.version} is champion, prompt {result.deployment.prompt.label}; {before}"
    bundle = f"not written: {result.export_declined}"
    if result.export:
        bundle = f"{_start(result.export)}   then http://127.0.0.1:8000/docs"
    return "\n".join([
        f"\nSummary     {total_s:.0f} s: " + ", ".join(f"{name} {s:.0f} s" for name, s in result.seconds.items()),
        f"  model     {model}",
        f"  prompt    {result.experiment.verdict}",
        f"  version   {version}",
        f"  test      {_passed(report)}",
        f"  look      {mode_command(config, 'ui')}   then http://127.0.0.1:{LOCAL_SERVER_PORT}",
        f"  serve     {mode_command(config, 'serve', '--start', *port_flag(serve))}   then {result.serve.url}/docs",
        f"  bundle    {bundle}",
    ])  # fmt: skip
