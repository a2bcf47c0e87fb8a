"""The settings that modes share: precedence, and one clear sentence for each value that is wrong."""

from __future__ import annotations

import pytest

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError
from genai_lifecycle.stages.chat import ChatSettings
from genai_lifecycle.stages.export import ExportSettings
from genai_lifecycle.stages.verify import VerifySettings


def test_flags_beat_environment_and_environment_beats_defaults():
    env = {"MLFLOW_TRACKING_URI": "http://from-env:1", "MLFLOW_EXPERIMENT_NAME": "from-env"}
    config = E2EConfig.from_env({"tracking_uri": "http://from-flag:1"}, env)
    assert config.tracking_uri == "http://from-flag:1"
    assert config.experiment_name == "from-env"
    assert config.registered_model_name == "langchain-e2e-model"


def test_an_empty_variable_counts_as_not_set():
    assert E2EConfig.from_env({}, {"MLFLOW_TRACKING_URI": ""}).tracking_uri is None


def test_the_constants_that_users_know():
    config = E2EConfig()
    assert config.backend_store_uri.endswith("/local_mlflow_backend/mlflow.db")
    assert config.registered_model_name == "langchain-e2e-model"
    assert config.cases.name == "cases.jsonl"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"registered_model_name": "a/b"}, "--registered-model-name 'a/b'"),
        ({"registered_model_name": ""}, "--registered-model-name ''"),
        ({"registered_model_name": "модель"}, "not allowed"),
        ({"experiment_name": "x:y"}, "--experiment-name 'x:y'"),
        ({"max_new_tokens": 0}, "--max-new-tokens is 0"),
        ({"max_new_tokens": 5000}, "--max-new-tokens is 5000"),
        ({"seed": -1}, "--seed is -1"),
        ({"turn_format": "chat"}, "--turn-format is 'chat'"),
        ({"tracking_uri": "localhost:5000"}, "--tracking-uri is 'localhost:5000'"),
        ({"backend_store_uri": "mlruns"}, "--backend-store-uri is 'mlruns'"),
        ({"tracking_uri": "sqlite://lab.db"}, "--tracking-uri is 'sqlite://lab.db': it names no file"),
        ({"backend_store_uri": "sqlite:///:memory:"}, "--backend-store-uri is 'sqlite:///:memory:': it names no file"),
        ({"tracking_uri": "http://[::1"}, "--tracking-uri has no host"),
        ({"tracking_uri": "http:///x"}, "--tracking-uri has no host"),
        ({"data_dir": "ftp://x"}, "--data-dir is 'ftp://x'"),
        ({"data_dir": "s3://Bucket/x"}, "--data-dir is no address in S3: a bucket's name has"),
        ({"data_dir": "s3://bucket/a//b"}, "--data-dir is no address in S3: a prefix is made of"),
        ({"s3_endpoint_url": "minio:9000"}, "--s3-endpoint-url is no address"),
        ({"s3_endpoint_url": "http://key:word@minio:9000"}, "--s3-endpoint-url has a key in it"),
        ({"s3_access_key": "key"}, "only one is given"),
        ({"s3_secret_key": "key"}, "only one is given"),
    ],
)
def test_a_wrong_value_is_named_with_the_next_step(given, said):
    with pytest.raises(ConfigError) as caught:
        E2EConfig(**given)
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("uri", [
    "langchain-e2e-model", "models:/m", "models:/m/latest", "models:/m/0", "models:/m@champion/1", "runs:/0123/model",
])  # fmt: skip
@pytest.mark.parametrize("settings", [ExportSettings, VerifySettings, ChatSettings])
def test_a_version_is_named_as_mlflow_names_it(settings, uri):
    with pytest.raises(ConfigError, match=f"--model-uri is '{uri}'.") as caught:
        settings(model_uri=uri)
    assert "models:/NAME@ALIAS" in caught.value.hint


def test_the_keys_of_s3_are_in_no_description():
    config = E2EConfig(s3_access_key="our-key", s3_secret_key="our-secret", s3_endpoint_url="https://s3.example")
    assert "our-" not in repr(config)
    addresses = {"data_dir": "s3://our-key:our-secret@bucket/x"}, {"s3_endpoint_url": "http://our-key:our-secret@minio"}
    for given in ({"s3_secret_key": "our-secret"}, *addresses):
        with pytest.raises(ConfigError) as caught:
            E2EConfig(**given)
        assert "our-" not in str(caught.value)


def test_an_artifact_root_in_s3():
    env = {"LIFECYCLE_DATA_DIR": "s3://bucket/team/a/", "MLFLOW_S3_ENDPOINT_URL": "http://minio:9000"}
    config = E2EConfig.from_env({}, env)
    assert (config.data_dir, config.s3_endpoint_url) == ("s3://bucket/team/a", "http://minio:9000")


def test_where_a_bundle_is_written():
    assert ExportSettings().output_dir.name == "exported_model"
    assert "~" not in str(ExportSettings(output_dir="~/bundle").output_dir)


def test_places_are_those_of_the_folder_in_which_the_configuration_was_made(tmp_path, monkeypatch):
    """Processes that run in another folder are given them."""
    monkeypatch.chdir(tmp_path)
    env = {"MLFLOW_TRACKING_URI": "sqlite:///lab.db?timeout=9", "MLFLOW_BACKEND_STORE_URI": "sqlite:///a/b.db"}
    env |= {"LIFECYCLE_DATA_DIR": "data/", "LIFECYCLE_STAGING_DIR": "staging", "LIFECYCLE_LOG_DIR": "logs"}
    config = E2EConfig.from_env({}, env)
    assert config.tracking_uri == f"sqlite:///{tmp_path}/lab.db?timeout=9"
    assert config.backend_store_uri == f"sqlite:///{tmp_path}/a/b.db"
    places = (config.data_dir, config.staging_dir, config.log_dir)
    assert places == (str(tmp_path / "data"), tmp_path / "staging", tmp_path / "logs")


def test_a_servers_password_is_in_no_description_of_the_settings():
    config = E2EConfig(tracking_uri="http://me:hush@mlflow", backend_store_uri="postgresql://me:hush@host/db")
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        VerifySettings(url="ftp://me:hush@host")
    assert "hush" not in str(caught.value)


# --- variables ---


def test_two_experiments_have_two_variables():
    config = E2EConfig.from_env({}, {"MLFLOW_EXPERIMENT_NAME": "life"})
    assert (config.experiment_name, config.serving_experiment) == ("life", "serving")
    config = E2EConfig.from_env({}, {"TRACE_EXPERIMENT": "answers"})
    assert (config.experiment_name, config.serving_experiment) == ("langchain-e2e", "answers")


def test_the_server_that_a_chat_is_held_with_is_no_other_modes():
    env = {"CHAT_URL": "http://127.0.0.1:5001"}
    assert ChatSettings.from_env({}, env).server == "http://127.0.0.1:5001"
    assert VerifySettings.from_env({}, {"CHAT_URL": "nonsense"}).url is None
    assert ChatSettings.from_env({"model_uri": "models:/m/1"}, env).server is None, "a flag beats a variable"
