"""Settings: precedence, and one clear sentence for each value that is wrong."""

from __future__ import annotations

import pytest

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import ConfigError


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
        ({"registered_model_name": "a/b"}, "registered_model_name 'a/b'"),
        ({"registered_model_name": ""}, "registered_model_name ''"),
        ({"registered_model_name": "модель"}, "not allowed"),
        ({"experiment_name": "x:y"}, "experiment_name 'x:y'"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 5000}, "max_new_tokens is 5000"),
        ({"seed": -1}, "seed is -1"),
        ({"port": 70000}, "port is 70000"),
        ({"turn_format": "chat"}, "turn_format is 'chat'"),
        ({"tracking_uri": "localhost:5000"}, "tracking_uri is 'localhost:5000'"),
        ({"backend_store_uri": "mlruns"}, "backend_store_uri is 'mlruns'"),
        ({"data_dir": "ftp://x"}, "data_dir is 'ftp://x'"),
        ({"model_uri": "langchain-e2e-model"}, "model_uri is 'langchain-e2e-model'"),
        ({"model_uri": "models:/m"}, "model_uri is 'models:/m'"),
        ({"model_uri": "models:/m/latest"}, "model_uri is 'models:/m/latest'"),
        ({"model_uri": "models:/m/0"}, "model_uri is 'models:/m/0'"),
        ({"model_uri": "models:/m@champion/1"}, "model_uri is 'models:/m@champion/1'"),
        ({"model_uri": "runs:/0123/model"}, "model_uri is 'runs:/0123/model'"),
        ({"data_dir": "s3://Bucket/x"}, "data_dir is no address in S3: a bucket's name has"),
        ({"data_dir": "s3://bucket/a//b"}, "data_dir is no address in S3: a prefix is made of"),
        ({"s3_endpoint_url": "minio:9000"}, "s3_endpoint_url is no address"),
        ({"s3_endpoint_url": "http://key:word@minio:9000"}, "s3_endpoint_url has a key in it"),
        ({"s3_access_key": "key"}, "only one is given"),
        ({"s3_secret_key": "key"}, "only one is given"),
    ],
)
def test_a_wrong_value_is_named_with_the_next_step(given, said):
    with pytest.raises(ConfigError) as caught:
        E2EConfig(**given)
    assert said in str(caught.value)
    assert caught.value.hint


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
    assert E2EConfig().output_dir.name == "exported_model"
    assert "~" not in str(E2EConfig(output_dir="~/bundle").output_dir)
