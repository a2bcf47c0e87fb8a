"""The server's settings: from the environment, each wrong value stops the start with its name."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import forked
import pytest
from conftest import REPO, free_port

from genai_server.errors import SettingsError
from genai_server.model_info import ModelIdentity
from genai_server.settings import ServerSettings

MANIFEST = Path(tempfile.mkdtemp()) / "manifest.json"
MANIFEST.write_text('{"model": {"name": "m"}}')

# Every variable with a good value, and the field that it sets.
GOOD = {
    "MLFLOW_MODEL_URI": ("models:/m/1", "model_uri", "models:/m/1"),
    "MLFLOW_TRACKING_URI": ("http://127.0.0.1:5000", "tracking_uri", "http://127.0.0.1:5000"),
    "HOST": ("[::1]", "host", "::1"),
    "PUBLISHED_HOST": ("127.0.0.2", "published_host", "127.0.0.2"),
    "PORT": ("8000", "port", 8000),
    "API_KEYS": ("first-key-1, second-key-1 ,", "api_keys", ("first-key-1", "second-key-1")),
    "ADMIN_KEYS": ("admin-key-1", "admin_keys", ("admin-key-1",)),
    "ALLOW_OPEN": ("true", "allow_open", True),
    "ALLOWED_HOSTS": ("example.com, *.example.org,[::1]", "allowed_hosts", ("example.com", "*.example.org", "[::1]")),
    "CORS_ORIGINS": ("https://a.example,http://b:3000", "cors_origins", ("https://a.example", "http://b:3000")),
    "MAX_BODY_BYTES": ("2000", "max_body_bytes", 2000),
    "QUEUE_LIMIT": ("1", "queue_limit", 1),
    "REQUEST_TIMEOUT_S": ("0.5", "request_timeout_s", 0.5),
    "GRACE_S": ("5", "grace_s", 5.0),
    "MLFLOW_TRACE_SAMPLING_RATIO": ("1", "trace_sampling_ratio", 1.0),
    "TRACE_EXPERIMENT": ("mine", "trace_experiment", "mine"),
    "TRACE_TEXTS": ("True", "trace_texts", True),
    "MODEL_INFO_FILE": (str(MANIFEST), "model_identity", ModelIdentity("m")),
    "WEBHOOK_SECRET": ("a-long-secret", "webhook_secret", "a-long-secret"),
    "FEEDBACK_FILE": ("/tmp/f.jsonl", "feedback_file", "/tmp/f.jsonl"),
    "PROMPT_REFRESH_S": ("0.5", "prompt_refresh_s", 0.5),
    "PROMPT_FILE": ("/tmp/p.json", "prompt_file", "/tmp/p.json"),
    "LOG_FORMAT": ("JSON", "log_format", "json"),
    "LOG_LEVEL": ("Warning", "log_level", "warning"),
}


def test_every_field_has_a_variable_and_an_empty_one_counts_as_not_set():
    assert {field for _, field, _ in GOOD.values()} == {field.name for field in dataclasses.fields(ServerSettings)}
    assert ServerSettings.from_env({}) == ServerSettings.from_env(dict.fromkeys(GOOD, "")) == ServerSettings()


@pytest.mark.parametrize("name", GOOD)
def test_a_variable_sets_its_field_and_no_other(name):
    text, field, value = GOOD[name]
    assert ServerSettings.from_env({name: text}) == dataclasses.replace(ServerSettings(), **{field: value})


def test_the_orchestrators_experiment_is_not_the_traces():
    assert ServerSettings.from_env({"MLFLOW_EXPERIMENT_NAME": "life"}).trace_experiment == "serving"


def test_a_password_is_in_no_description():
    assert "hush" not in repr(ServerSettings(tracking_uri="http://me:hush@mlflow"))


def test_the_defaults_are_the_safe_ones():
    settings = ServerSettings()
    assert (settings.host, settings.port, settings.cors_origins) == ("127.0.0.1", 5001, ())
    assert (settings.trace_sampling_ratio, settings.trace_texts) == (0.0, False)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "PORT": ["eighty", "0", "-1", "65536", "80.5", " "],
        "GRACE_S": ["-1", "0", "601", "nan", "inf", "x"],
        "QUEUE_LIMIT": ["x", "0", "-1", "1.5"],
        "REQUEST_TIMEOUT_S": ["0", "-1", "3601", "nan", "inf", "1s"],
        "MAX_BODY_BYTES": ["999", "0", "-1", "1MB"],
        "MLFLOW_TRACE_SAMPLING_RATIO": ["-0.1", "1.1", "nan", "all"],
        "TRACE_TEXTS": ["maybe", "2"],
        "ALLOW_OPEN": ["maybe", "2"],
        "HOST": [
            "0.0.0.0",
            "::",
            "[::]",
            "192.168.1.5",
            "example.com",
            "127.0.0.1.example.com",
            "localhost.",
            "128.0.0.1",
        ],
        "PUBLISHED_HOST": ["0.0.0.0", "192.168.1.5"],
        "LOG_FORMAT": ["xml"],
        "LOG_LEVEL": ["loud", "trace"],
        "API_KEYS": ["short", "long-enough-1,short", ",", " ", "schl\u00fcssel-1"],
        "API_KEYS_FILE": ["/nowhere/keys", "/"],
        "ADMIN_KEYS": ["short", ",", "schl\u00fcssel-1"],
        "ADMIN_KEYS_FILE": ["/nowhere/keys", "/"],
        "ALLOWED_HOSTS": ["exam*ple.com", "*example.com", "example.com:5001", "http://example.com", "*.*.com", "a b"],
        "CORS_ORIGINS": ["example.com", "https://example.com/", "https://*.example.com", "ftp://example.com"],
    }.items(),
)
def test_a_wrong_value_stops_the_start_with_a_sentence_that_names_the_variable(name, values):
    for value in values:
        with pytest.raises(SettingsError, match=rf"\b{name}\b.*\.$") as caught:
            ServerSettings.from_env({name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no key"),
        (b"# only a comment\n\n", "holds no key"),
        (b"short\n", "too short"),
        (b"\xff\xfe", "read"),
    ],
)
@pytest.mark.parametrize("name", ["API_KEYS_FILE", "ADMIN_KEYS_FILE"])
def test_a_keys_file_without_a_good_key_stops_the_start(tmp_path, name, content, said):
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"{name}.*{said}"):
        ServerSettings.from_env({name: str(tmp_path / "keys")})


def test_a_secret_that_a_container_was_not_given_is_none():
    names = ("API_KEYS_FILE", "ADMIN_KEYS_FILE", "WEBHOOK_SECRET_FILE")
    assert ServerSettings.from_env(dict.fromkeys(names, "/dev/null")) == ServerSettings()


def test_a_key_is_a_callers_or_an_admins():
    for admins in ({"ADMIN_KEYS": "admin-key-1,the-same-key"}, {"ADMIN_KEYS": "the-same-key"}):
        with pytest.raises(SettingsError, match=r"API_KEYS and in ADMIN_KEYS.*\.$") as caught:
            ServerSettings.from_env({"API_KEYS": "first-key-1,the-same-key", **admins})
        assert "the-same-key" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost", "LOCALHOST"])
def test_without_keys_it_listens_for_this_machine(host):
    settings = ServerSettings.from_env({"HOST": host})
    assert settings.is_local and "*" not in settings.host_names


@pytest.mark.parametrize(
    "leave",
    [{"API_KEYS": "first-key-1"}, {"ADMIN_KEYS": "admin-key-1"}, {"ALLOW_OPEN": "true"}, {"PUBLISHED_HOST": "[::1]"}],
)
def test_other_machines_reach_it_with_keys_or_where_that_is_meant(leave):
    assert ServerSettings.from_env({"HOST": "0.0.0.0", **leave}).host == "0.0.0.0"
    with pytest.raises(SettingsError, match=r"^HOST is 0\.0\.0\.0.*API_KEYS.*127\.0\.0\.1.*ALLOW_OPEN"):
        ServerSettings.from_env({"HOST": "0.0.0.0"})


def test_a_container_that_is_published_to_others_needs_keys():
    with pytest.raises(SettingsError, match="PUBLISHED_HOST is 10.0.0.7"):
        ServerSettings.from_env({"HOST": "0.0.0.0", "PUBLISHED_HOST": "10.0.0.7"})


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ("127.0.0.1",)),
        ({"HOST": "::1"}, ("[::1]",)),
        ({"HOST": "0.0.0.0", "API_KEYS": "first-key-1"}, ("*",)),
        ({"HOST": "0.0.0.0", "PUBLISHED_HOST": "127.0.0.2"}, ("127.0.0.2",)),
        ({"ALLOWED_HOSTS": "*"}, ("*",)),
        ({"ALLOWED_HOSTS": "a.example"}, ("a.example",)),
        ({"HOST": "0.0.0.0", "API_KEYS": "first-key-1", "ALLOWED_HOSTS": "a.example"}, ("a.example",)),
    ],
)
def test_names_in_the_host_header(environment, names):
    assert ServerSettings.from_env(environment).host_names == names


@pytest.mark.parametrize(
    ("address", "name", "followed"),
    [
        ("models:/m@champion", "m", ("m", "champion")),
        ("models:/m/3", "m", None),
        ("models:/a model/latest", "a model", None),
        ("models:/m-0123456789abcdef", None, None),
        ("models://profile/m/3", None, None),
        ("/app/model", None, None),
    ],
)
def test_the_registered_model_of_an_address(address, name, followed):
    settings = ServerSettings(model_uri=address)
    assert (settings.registered_name, settings.followed) == (name, followed)


def test_a_wrong_key_is_not_told():
    for name, value in (("API_KEYS", "hush"), ("ADMIN_KEYS", "hush-hush-\u00fc")):
        with pytest.raises(SettingsError) as caught:
            ServerSettings.from_env({name: value})
        assert "hush" not in str(caught.value)


# --- the process ---


def start(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "fastapi_server.py"], cwd=REPO, env=os.environ | environment, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def test_the_process_ends_with_one_sentence_and_not_a_traceback():
    wrong = start(PORT="eighty")
    assert (wrong.returncode, wrong.stderr) == (2, "Error: PORT='eighty' is not a whole number.\n")
    reachable = start(HOST="0.0.0.0", PORT=str(free_port()))
    assert reachable.returncode == 2 and reachable.stderr.startswith("Error: HOST is 0.0.0.0")
    assert reachable.stderr.count("\n") == 1


def test_a_taken_port_is_told_with_its_address_and_who_may_ask_there():
    try:
        listener = socket.create_server(("::", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        port = listener.getsockname()[1]
        taken = start(HOST="::", PORT=str(port), ALLOW_OPEN="true")
    warning, error = taken.stderr.splitlines()
    assert taken.returncode == 10 and f"Whoever reaches [::]:{port} may ask" in warning
    assert error.startswith(f"Error: cannot listen on [::]:{port}: ")


def test_a_model_that_is_not_there_ends_the_process(tmp_path):
    environment = os.environ | {"PORT": str(free_port()), "MLFLOW_MODEL_URI": str(tmp_path / "nowhere")}
    missing = forked.run([sys.executable, "fastapi_server.py"], cwd=REPO, env=environment)
    assert missing.returncode == 4, missing.stderr
    assert "Error: " in missing.stderr and "Traceback" not in missing.stderr


def documented_defaults() -> dict[str, str]:
    """By variable; a row may have several."""
    defaults = {}
    for line in (REPO / "docs" / "http_api.md").read_text("utf-8").splitlines():
        if match := re.match(r"\| (`[A-Z_`, ]+`) \| ([^|]+) \|", line):
            names, values = (cell.replace("`", "").split(", ") for cell in match.groups())
            defaults |= dict(zip(names, values if len(values) == len(names) else values[:1] * len(names), strict=True))
    return defaults


def as_documented(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if default in (None, (), "") else str(default)


def test_the_docs_have_the_defaults():
    documented = documented_defaults()
    described = {"MLFLOW_TRACKING_URI", "PUBLISHED_HOST", "ALLOWED_HOSTS", "PROMPT_REFRESH_S"}  # in words
    settings = {setting.metadata["env"]: setting.default for setting in dataclasses.fields(ServerSettings)}
    for name in settings.keys() - described:
        assert documented[name] == as_documented(settings[name]), name
