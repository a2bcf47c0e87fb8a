"""The command line: every wrong input gets one sentence, the next step and its own exit code."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import REPO, make_cases

from genai_lifecycle.cli import main as cli
from genai_lifecycle.cli.flags import Mode
from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation.gate import Decision
from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult
from genai_lifecycle.evaluation.statistics import Interval, Verdict
from genai_lifecycle.settings import settings_of
from genai_lifecycle.store.prompt_registry import PromptRef


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run the command line on a store below tmp_path; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("LIFECYCLE_DATA_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def call(*arguments: str):
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def assert_told(result, code: int, sentence: str) -> None:
    """One sentence that says what happened and a hint that says what to do next; no traceback."""
    got, _, err = result
    assert got == code, err
    assert sentence in err and err.startswith("Error: ")
    assert "\n  -> " in err and "Traceback" not in err


def test_an_unknown_mode_or_flag(run):
    assert_told(run("--mode", "exprot"), 2, "There is no mode 'exprot'.\n  -> Did you mean export?")
    told = run("--mode", "all", "--modell", "x")
    assert_told(told, 2, "There is no flag --modell.\n  -> Did you mean --model?")
    assert_told(run("--mode", "all", "list"), 2, "--mode all takes no 'list'")
    assert_told(run(), 2, "Begin with --mode all")
    assert_told(run("--mode", "all", "--seed", "x"), 2, "invalid int value: 'x'")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("test", "--wheels"), "--wheels is a flag of export and all, not of test."),
        (("ui", "--cases", "x"), "--cases is a flag of experiment, deploy, test, evaluate and all, not of ui."),
        (("all", "--s3-secret-key", "our-secret"), "--s3-secret-key is a flag of export, not of all."),
        (("prompts", "--days", "7"), "--days is a flag of import-feedback and monitor, not of prompts."),
        (("export", "--start"), "--start is a flag of serve, not of export."),
    ],
)
def test_a_flag_of_other_modes_is_refused_with_their_names(run, words, sentence):
    told = run("--mode", *words)
    assert_told(told, 2, sentence)
    assert f"--mode {words[0]} --help" in told[2] and "our-secret" not in told[2]


def test_every_group_of_settings_is_some_modes():
    """A group that no mode names could not be set at all; a name that is no group would be a slip."""
    groups = {item.group for item in settings_of(E2EConfig)}
    assert {group for mode in cli.MODES.values() for group in mode.groups} == groups


def test_the_former_force_names_the_flags_that_took_its_place(run):
    for given in (("--mode", "export", "--force"), ("--mode", "prompts", "delete", "--name", "x", "--force")):
        told = run(*given)
        assert_told(told, 2, "There is no --force any more")
        for flag in ("--overwrite", "--override-gate", "--even-in-production", "--allow-missing"):
            assert flag in told[2]


def test_a_model_that_does_not_exist_or_is_none(run, tmp_path):
    assert_told(run("--mode", "experiment", "--model", "./nowhere"), 7, "no model folder './nowhere'")
    assert_told(run("--mode", "experiment", "--model", str(tmp_path)), 7, "no config.json")


def test_a_case_file_that_cannot_be_used(run, tmp_path, tiny_gpt2):
    cases = tmp_path / "cases.jsonl"
    common = ("--mode", "experiment", "--model", str(tiny_gpt2), "--cases", str(cases))
    assert_told(run(*common), 9, "cannot be read")
    cases.write_text("\n\n")
    assert_told(run(*common), 9, "is empty")
    cases.write_text('{"question": "a", "reference": "b"}\n{"question": "a"}\n')
    assert_told(run(*common), 9, "line 2")


def test_a_bad_case_file_leaves_no_run_and_no_prompt(run, tmp_path, tiny_gpt2):
    import mlflow

    run("--mode", "experiment", "--model", str(tiny_gpt2), "--cases", str(tmp_path / "none.jsonl"))
    assert mlflow.search_runs(search_all_experiments=True).empty
    assert mlflow.genai.load_prompt("prompts:/qa@latest", allow_missing=True) is None


def test_a_tracking_server_that_does_not_answer(run):
    assert_told(run("--mode", "test", "--tracking-uri", "http://127.0.0.1:9"), 3, "No MLflow server answers")


def test_later_modes_before_earlier_ones(run, tmp_path, tiny_gpt2):
    cases = str(make_cases(tmp_path / "cases.jsonl"))
    assert_told(run("--mode", "test"), 4, "no candidate version")
    assert_told(run("--mode", "serve"), 4, "no candidate version")
    assert_told(run("--mode", "deploy", "--model", str(tiny_gpt2), "--cases", cases), 4, "No prompt is in production")
    out = str(tmp_path / "out")
    assert_told(run("--mode", "export", "--output-dir", out), 4, "No version of 'langchain-e2e-model' is champion yet")


def test_evaluate_and_rollback_with_nothing_to_work_on(run, tmp_path):
    cases = tmp_path / "c.yaml"
    cases.write_text("tests:\n  - vars: {question: a}\n    assert: [{type: contians, value: a}]\n")
    assert_told(run("--mode", "evaluate", "--cases", str(cases)), 9, "line 2: the check 'contians' is unknown")
    assert_told(run("--mode", "evaluate"), 4, "no candidate version")
    assert_told(run("--mode", "rollback"), 4, "before the champion is recorded")
    assert_told(run("--mode", "rollback", "--prompt", "none"), 4, "no prompt 'none'")
    assert_told(run("--mode", "test", "--gate", str(tmp_path / "none.yaml")), 2, "cannot be read")


def test_a_bad_export(run):
    assert_told(run("--mode", "export", "--model-uri", "models:/m"), 2, "--model-uri is 'models:/m'")
    assert_told(run("--mode", "export", "--model-uri", "models:/m@x"), 4, "no version with the alias 'x' of 'm'")
    assert_told(run("--mode", "export", "--tracking-uri", "http://127.0.0.1:9"), 3, "No MLflow server answers")


@pytest.mark.parametrize(
    "flags", [("--s3-secret-key", "our-secret"), ("--s3-secret-kex", "our-secret"), ("--s3-secrt=our-secret",),
              ("-s3-secret-key", "our-secret")],
)  # fmt: skip
def test_a_key_given_with_a_wrong_flag_is_not_printed(run, flags):
    code, out, err = run("--mode", "export", *flags)
    assert code == 2 and "our-" not in out + err
    assert "s3" in err


def test_a_flag_without_its_value_is_named(run):
    assert_told(run("--mode", "export", "--s3-secret-key"), 2, "rgument --s3-secret-key: expected one argument")


def test_a_registered_name_with_illegal_characters(run):
    assert_told(run("--mode", "test", "--registered-model-name", "a/b"), 2, "--registered-model-name 'a/b'")


def test_a_data_directory_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert_told(run("--mode", "test", "--data-dir", str(tmp_path / "file" / "x")), 11, "Cannot write")


def test_two_runs_at_once(run, tmp_path, tiny_gpt2):
    from genai_lifecycle.store.store_lock import only_run_on
    from genai_lifecycle.store.tracking_store import open_store

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    open_store(E2EConfig(tracking_uri=uri, data_dir=str(tmp_path / "artifacts")))
    with only_run_on(uri):
        assert_told(run("--mode", "experiment", "--model", str(tiny_gpt2)), 12, "Another run")


def test_ctrl_c_has_the_exit_code_that_a_shell_expects(run, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.MODES, "ui", Mode(interrupted, "the UI"))
    code, _, err = run("--mode", "ui")
    assert code == 130 and "Interrupted" in err


def test_a_winner_that_the_gate_refuses_is_told_with_what_stays_and_the_gates_exit_code(run, monkeypatch):
    winner, stays = PromptRef("qa", 3, "{{question}}", "expert"), PromptRef("qa", 1, "{{question}}", "simple")
    decision = Decision(False, False, "on", False, ("token_f1 0.300 is below 0.5",))
    verdict = Verdict("win", "qa/3 expert", "qa/1 simple", "token_f1", Interval(0.1, 0.05, 0.15))
    best = PromptResult("qa/3 expert", winner, "", "r2", "e", {"ended_rate": 1.0}, {})
    result = EvaluationResult("r", (best,), verdict, 4, 8, 0, "none", None, (), 1.0, 1.0, decision, stays)
    monkeypatch.setattr(cli, "_opened", lambda config: SimpleNamespace(experiment=lambda: result))
    code, out, err = run("--mode", "experiment")
    assert "  Gate: refused: token_f1 0.300 is below 0.5\n  qa/1 simple is in production\n" in out
    assert_told((code, out, err), 16, "The gate refused qa/3 expert: token_f1 0.300 is below 0.5.")


@pytest.mark.parametrize("words", [["--help"], ["--mode", "all", "--help"]])
def test_help_imports_nothing_heavy(words):
    script = (
        "import sys\n"
        f"sys.argv = {['e2e_mlflow.py', *words]}\n"
        "try:\n"
        "    import runpy; runpy.run_path('e2e_mlflow.py', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'mlflow', 'torch', 'transformers', 'pandas', 'numpy', 'scipy', 'langchain_core', 'requests',\n"
        "         'pydantic', 'yaml', 'boto3', 'httpx'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert "experiment" in done.stdout
    assert "HEAVY []" in done.stdout


def test_the_entry_hands_out_what_the_spec_names():
    import importlib.util

    spec = importlib.util.spec_from_file_location("e2e_mlflow", REPO / "e2e_mlflow.py")
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    assert entry.E2EConfig.__name__ == "E2EConfig"
    assert entry.MLflow3E2ELifecycle.__name__ == "MLflow3E2ELifecycle"
    assert entry.HuggingFaceModelWrapper.__name__ == "HuggingFaceModelWrapper"
    with pytest.raises(AttributeError):
        getattr(entry, "Nothing")  # noqa: B009
