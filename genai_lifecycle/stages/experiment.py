"""Mode `experiment`: the templates of the prompt `qa` over the same cases, traced, scored and compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation import judges
from genai_lifecycle.evaluation.case_files import load_cases
from genai_lifecycle.evaluation.gate import load_policy
from genai_lifecycle.evaluation.results import EvaluationResult
from genai_lifecycle.evaluation.runner import EvaluatedModel, Evaluation, EvaluationRunner, Subject
from genai_lifecycle.models.generation import answer_cases, load_text_model
from genai_lifecycle.models.source import ModelSource
from genai_lifecycle.prompts.promotion import promote_winner
from genai_lifecycle.prompts.templates import PROMPT, TEMPLATES
from genai_lifecycle.runtime import progress
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store import runs
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.tracking_store import Store


def run_experiment(config: E2EConfig, source: ModelSource, store: Store) -> EvaluationResult:
    """Compare the templates on `source`; the winner goes into production where the gate lets it.

    What is in production already is compared too. Leaves a parent run with a nested run for each prompt, a trace for
    each answer with its scores, plots and a report. The alias `production` moves last, when everything else is stored.

    Raises:
        CasesInvalid: the case file cannot be used.
        ConfigError: the gate file has something wrong in it.
        TrackingUnavailable: the store stopped answering, or did not keep every trace.
    """
    policy, evaluation = load_policy(config.gate, "prompt"), _evaluation(config)
    prompts = _compared(config)
    model = EvaluatedModel(source.name, source.weights_sha256)
    text_model = load_text_model(source.path, source.turn_format)
    total = len(prompts) * len(evaluation.cases)
    with (
        runs.run("experiment", "experiment") as run_id,
        progress.steps("Answering", total) as answered,
        progress.steps("Storing", total) as stored,
    ):
        runs.log_results(source.as_params(), {})
        runner = EvaluationRunner(evaluation, answered, stored)
        for prompt in prompts:
            answer = partial(answer_cases, text_model, prompt.template, max_new_tokens=config.max_new_tokens)
            runner.run(Subject(prompt.label, prompt, model), store, answer, nested=True)
        result = runner.compare(run_id, store, policy.metric)
        runs.set_tag(run_id, runs.WINNER_TAG, str(result.winner.prompt))
    runner.close()
    return promote_winner(result, policy, runner.evidence_of(model.version), override=config.override_gate)


def _evaluation(config: E2EConfig) -> Evaluation:
    return Evaluation(
        cases=load_cases(config.cases),
        cases_file=config.cases.name,
        label="experiment",
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        judges=judges.choose((), config.judge_model),
        staging_dir=config.staging_dir,
    )


def _compared(config: E2EConfig) -> Sequence[PromptRef]:
    """The templates, and what is in production where that is another text which asks a question."""
    live = registry.in_production(PROMPT)
    templates = registry.register_templates(PROMPT, TEMPLATES, f"Template of experiment {config.experiment_name}")
    is_another = live is not None and str(live) not in map(str, templates) and "{{question}}" in live.template
    return [*templates, live] if live is not None and is_another else templates
