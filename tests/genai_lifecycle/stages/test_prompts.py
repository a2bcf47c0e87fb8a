"""`--mode prompts` on a real MLflow store: what the command line does, and what MLflow itself shows of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from conftest import folders, make_cases

from genai_lifecycle.cli import main as cli
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError, GateRefused, NotFound
from genai_lifecycle.evaluation.evidence import Evidence
from genai_lifecycle.evaluation.gate import Policy
from genai_lifecycle.prompts import promotion
from genai_lifecycle.prompts.production import prompt_in_production
from genai_lifecycle.prompts.promotion import Gate
from genai_lifecycle.stages.prompts import PromptsResult, PromptsSettings, run_prompts
from genai_lifecycle.store import prompt_registry as registry
from genai_lifecycle.store.prompt_registry import PREVIOUS, PRODUCTION, PromptRef
from genai_lifecycle.store.tracking_store import open_store

FIRST = 'Answer as {"text": {}}.\nQuestion: {{question}}\nAnswer:'
SECOND = "Question: {{question}}\nShort answer:"
GOOD, BAD = (0.8,) * 12, (0.2,) * 12


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Iterator[E2EConfig]:
    """One store for this file; every test has prompts of its own."""
    base = tmp_path_factory.mktemp("prompts")
    uri = folders(base)["backend_store_uri"]
    config = E2EConfig(**folders(base), cases=make_cases(base / "cases.jsonl"), tracking_uri=uri)
    open_store(config)
    yield config


@pytest.fixture
def name(request, config) -> str:
    mlflow.set_tracking_uri(config.tracking_uri)
    return request.node.name.replace("[", "-").replace("]", "")[:100]


def gate(**scores: tuple[float, ...]) -> Callable[[], Gate]:
    """A gate that knows these scores of the versions v1, v2, …"""
    known = {f"/{key[1:]}": value for key, value in scores.items()}

    def evidence_of(subject: str) -> Evidence | None:
        found = known.get(subject[subject.rindex("/") :])
        return Evidence(subject, "cases", {"token_f1": found}, (10.0,)) if found else None

    return lambda: Gate(Policy(), evidence_of)


def act(action: str, name: str | None, opened: Callable[[], Gate] | None = None, **given) -> PromptsResult:
    return run_prompts(PromptsSettings(action=action, name=name, **given), opened or gate())


def aliases(name: str) -> dict[str, int]:
    return dict(registry.require(name).aliases)


def tags(name: str, version: int) -> dict[str, str]:
    """As plain MLflow shows them."""
    wanted = f"name = '{name}' AND tags.`mlflow.prompt.is_prompt` = 'true'"
    (found,) = [v for v in mlflow.search_model_versions(filter_string=wanted) if int(v.version) == version]
    return dict(found.tags)


# --- what we write, MLflow shows; what it writes, we read -----------------------------------------


def test_a_new_prompt_is_in_production_and_plain_mlflow_shows_it(name):
    result = act("create", name, template=FIRST, commit_message="first", tags=["owner=me"])
    assert "in production" in result.message
    found = mlflow.search_registered_models(
        filter_string=f"name = '{name}' AND tags.`mlflow.prompt.is_prompt` = 'true'"
    )
    assert [(model.name, model.aliases) for model in found] == [(name, {PRODUCTION: 1})]
    loaded = mlflow.genai.load_prompt(f"prompts:/{name}@production", cache_ttl_seconds=0)
    assert (loaded.template, loaded.commit_message, loaded.variables) == (FIRST, "first", {"question"})
    assert tags(name, 1)["mlflow.prompt.text"] == FIRST and tags(name, 1)["owner"] == "me"
    assert tags(name, 1)[promotion.HOW] == promotion.CREATED


def test_plain_rest_shows_it(name, config, monkeypatch):
    """What MLflow's UI asks for, from MLflow's own server on this store."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", config.tracking_uri)
    from mlflow.server import app, handlers

    monkeypatch.setattr(handlers, "_model_registry_store", None)
    act("create", name, template=FIRST)
    found = app.test_client().get(
        "/api/2.0/mlflow/registered-models/search",
        query_string={"filter": f"name = '{name}' AND tags.`mlflow.prompt.is_prompt` = 'true'"},
    )
    (model,) = found.json["registered_models"]
    assert model["aliases"] == [{"alias": "production", "version": "1"}]
    assert {"key": "mlflow.prompt.text", "value": FIRST} in model["latest_versions"][0]["tags"]


def test_what_mlflow_wrote_is_read(name):
    mlflow.genai.register_prompt(name, "{{a.b}} of {{question}}", commit_message="theirs", tags={"k": "v"})
    mlflow.genai.set_prompt_alias(name, "staging", 1)
    (shown,) = act("show", name, alias="staging").versions
    assert (shown.template, shown.commit_message, shown.aliases) == ("{{a.b}} of {{question}}", "theirs", ("staging",))
    assert shown.tags == {"k": "v"}
    assert (name, {"staging": 1}) in [(p.name, p.aliases) for p in act("list", None).prompts]


def test_a_chat_prompt_is_shown_as_its_messages(name):
    messages = [{"role": "user", "content": "{{question}}"}]
    mlflow.genai.register_prompt(name, messages)
    (shown,) = act("show", name).versions
    assert shown.is_chat and json.loads(shown.template) == messages


def test_models_are_no_prompts(name):
    mlflow.MlflowClient().create_registered_model(name)
    assert registry.find(name) is None
    with pytest.raises(NotFound, match="no prompt"):
        act("show", name)


# --- what goes into production --------------------------------------------------------------------


def test_a_new_version_waits_for_its_evaluation(name):
    act("create", name, template=FIRST)
    result = act("update", name, template=SECOND, commit_message="shorter")
    assert not result.decision.allowed and "not evaluated" in result.decision.reasons[0]
    assert aliases(name) == {PRODUCTION: 1} and "stays at version 1" in result.message
    assert tags(name, 2)["gate.decision"] == "refused"


def test_past_the_gate_it_goes_into_production_and_back(name):
    act("create", name, template=FIRST)
    result = act("update", name, gate(v1=BAD, v2=GOOD), template=SECOND)
    assert result.decision.passed and aliases(name) == {PRODUCTION: 2, PREVIOUS: 1}
    assert tags(name, 2)[promotion.FORMER] == "1" and tags(name, 2)[promotion.HOW] == promotion.GATE
    assert "version 2 is previous" in act("rollback", name).message
    assert aliases(name) == {PRODUCTION: 1, PREVIOUS: 2} and tags(name, 1)[promotion.HOW] == promotion.ROLLED_BACK
    act("rollback", name)
    assert aliases(name) == {PRODUCTION: 2, PREVIOUS: 1}


def test_a_worse_one_is_refused_and_an_override_is_recorded(name):
    act("create", name, template=FIRST)
    assert not act("update", name, gate(v1=GOOD, v2=BAD), template=SECOND).decision.allowed
    with pytest.raises(GateRefused, match="worse than"):
        act("alias", name, gate(v1=GOOD, v2=BAD), alias=PRODUCTION, version=2)
    assert aliases(name) == {PRODUCTION: 1}
    act("alias", name, gate(v1=GOOD, v2=BAD), alias=PRODUCTION, version=2, override_gate=True)
    assert aliases(name) == {PRODUCTION: 2, PREVIOUS: 1}
    assert (tags(name, 2)["gate.decision"], tags(name, 2)["gate.forced"]) == ("refused", "true")
    assert tags(name, 2)[promotion.HOW] == promotion.FORCED


def test_the_same_template_makes_no_new_version(name):
    """So that the same command after an evaluation, or after a kill, does what was left to do."""
    act("create", name, template=FIRST)
    act("update", name, template=SECOND)
    result = act("update", name, gate(v1=GOOD, v2=GOOD), template=SECOND)
    assert "already" in result.message and aliases(name)[PRODUCTION] == 2
    assert [v.version for v in act("history", name).versions] == [2, 1]


def test_other_variables_than_callers_send_are_refused_by_name(name):
    act("create", name, template=FIRST)
    result = act("update", name, gate(v1=BAD, v2=GOOD), template="{{topic}}?")
    assert not result.decision.allowed and result.decision.reasons[-1].endswith("unknown topic; missing question")


def versions_of(name: str) -> tuple[PromptRef, PromptRef]:
    return tuple(registry.register_templates(name, {"one": FIRST, "two": SECOND}, "template"))


def test_a_first_winner_needs_no_comparison(name):
    first, _ = versions_of(name)
    stays, decision = promotion.put_in_production(first, gate(v1=BAD)())
    assert stays == first and decision.passed and decision.reasons[0] == "token_f1 0.200 is at least 0"
    assert aliases(name) == {PRODUCTION: 1} and tags(name, 1)[promotion.FORMER] == "none"
    assert promotion.put_in_production(first, gate()()) == (first, None), "it is there already: the gate is not asked"


def test_a_winner_takes_the_place_of_the_version_before_past_the_gate(name):
    first, second = versions_of(name)
    promotion.put_in_production(first, gate(v1=BAD)())
    stays, decision = promotion.put_in_production(second, gate(v1=BAD, v2=GOOD)())
    assert stays == second and f"better than {first}" in str(decision)
    assert aliases(name) == {PRODUCTION: 2, PREVIOUS: 1}
    assert (tags(name, 2)[promotion.FORMER], tags(name, 2)[promotion.HOW]) == ("1", promotion.GATE)


def test_a_winner_that_the_gate_refuses_goes_nowhere_unless_the_gate_is_overridden(name):
    first, second = versions_of(name)
    promotion.put_in_production(first, gate(v1=GOOD)())
    stays, decision = promotion.put_in_production(second, gate(v1=GOOD, v2=BAD)())
    assert stays == first and not decision.allowed and tags(name, 2)["gate.decision"] == "refused"
    assert aliases(name) == {PRODUCTION: 1}
    stays, decision = promotion.put_in_production(second, gate(v1=GOOD, v2=BAD)(), override=True)
    assert stays == second and tags(name, 2)["gate.forced"] == "true"
    assert aliases(name) == {PRODUCTION: 2, PREVIOUS: 1}


def test_a_template_that_has_a_version_is_not_registered_again(name):
    first, second = registry.register_templates(name, {"one": FIRST, "two": SECOND}, "template")
    act("update", name, template=FIRST + " ", override_gate=True)
    assert registry.register_templates(name, {"one": FIRST, "two": SECOND}, "template") == [first, second]
    assert [(ref.version, ref.template_name, ref.label) for ref in (first, second)] == [
        (1, "one", f"{name}/1 one"), (2, "two", f"{name}/2 two"),
    ]  # fmt: skip


def test_a_prompt_that_the_model_cannot_fill_is_not_deployed(name, config):
    act("create", "qa", template="{{topic}}")
    with pytest.raises(ConfigError, match="has to be its one variable"):
        prompt_in_production(config, open_store(config))
    act("delete", "qa", even_in_production=True)


def test_without_a_former_version_there_is_no_way_back(name):
    act("create", name, template=FIRST)
    with pytest.raises(NotFound, match="before the one in production") as caught:
        act("rollback", name)
    assert f"--alias production --name {name} --version N" in caught.value.hint


# --- deleting -------------------------------------------------------------------------------------


def test_what_is_in_production_is_deleted_only_when_it_is_said_so(name):
    act("create", name, template=FIRST)
    act("update", name, template=SECOND)
    for version in (1, None):
        with pytest.raises(ConfigError, match="is in production"):
            act("delete", name, version=version)
    act("delete", name, version=2)
    assert [v.version for v in act("history", name).versions] == [1]
    act("delete", name, even_in_production=True)
    assert registry.find(name) is None


# --- wrong settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"action": "unknown"},
        {"action": "show"},
        {"action": "show", "name": "a/b"},
        {"action": "show", "name": "a' OR 'x"},
        {"action": "create", "name": "a"},
        {"action": "create", "name": "a", "template": "{{question"},
        {"action": "create", "name": "a", "template": "x", "tags": ["mlflow.x=1"]},
        {"action": "alias", "name": "a", "alias": "production"},
        {"action": "alias", "name": "a", "alias": "previous", "version": 1},
        {"action": "alias", "name": "a", "alias": "latest", "version": 1},
        {"action": "alias", "name": "a", "alias": "v2", "version": 1},
    ],
)
def test_wrong_settings_are_refused_before_anything_is_done(given):
    with pytest.raises(ConfigError) as refusal:
        PromptsSettings(**given)
    assert refusal.value.hint


def test_what_is_not_there_is_named(name):
    for given in ({"version": 1}, {"alias": "production"}):
        with pytest.raises(NotFound, match="There is no prompt"):
            act("show", name, **given)
    act("create", name, template=FIRST)
    with pytest.raises(NotFound, match="no version 7"):
        act("show", name, version=7)
    with pytest.raises(NotFound, match="no alias 'staging'"):
        act("show", name, alias="staging")
    with pytest.raises(ConfigError, match="already"):
        act("create", name, template=SECOND)


# --- the command line -----------------------------------------------------------------------------


def run(config: E2EConfig, *arguments: str) -> int:
    places = ("--tracking-uri", config.tracking_uri, "--data-dir", config.data_dir)
    return cli.main(["--mode", "prompts", *arguments, *places])


def test_the_command_line_from_a_file_to_json(config, name, tmp_path: Path, capsys):
    file = tmp_path / "template.txt"
    file.write_text(f"{FIRST}\n", "utf-8")
    assert run(config, "create", "--name", name, "--template-file", str(file), "--tag", "a=b=c") == 0
    assert (
        run(config, "update", "--name", name, "--template", SECOND, "--commit-message", "why", "--override-gate") == 0
    )
    capsys.readouterr()
    assert run(config, "show", "--name", name, "--json") == 0
    (version,) = json.loads(capsys.readouterr().out)["versions"]
    assert (version["version"], version["template"], version["commit_message"]) == (2, SECOND, "why")
    assert run(config, "diff", "--name", name, "--alias", "previous") == 0
    out = capsys.readouterr().out
    assert "-Answer:\n" in out and "+Short answer:\n" in out and f"--- {name}/1" in out
    assert run(config, "history", "--name", name) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[-3:]] == ["VERSION", "2", "1"] and "forced" in rows[-2]
    assert run(config, "list") == 0
    assert "previous 1, production 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "--name", "x", "--template", "a {{b"), 2, "unclosed {{"),
        (("create", "--name", "x", "--template", "a", "--template-file", "b"), 2, "Both --template"),
        (("create", "--name", "x", "--template-file", "/no/such/file"), 2, "cannot be read"),
        (("create", "--name", "x", "--template", "a", "--tag", "k"), 2, "has no value"),
        (("show", "--name", "missing"), 4, "There is no prompt 'missing'"),
    ],
)
def test_errors_are_a_sentence_and_a_hint(config, arguments, code, said, capsys):
    assert run(config, *arguments) == code
    error = capsys.readouterr().err
    assert said in error and "->" in error and "Traceback" not in error


def test_a_word_without_a_flag_belongs_to_this_mode_only(capsys):
    assert cli.main(["--mode", "serve", "list"]) == 2
    assert "'list'" in capsys.readouterr().err
