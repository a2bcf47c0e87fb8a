"""The bundle's own files, without Docker: the scripts' checks, the lock, what must not stand in them, the tester."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import yaml
from conftest import REPO, free_port

PACKAGE = REPO / "demo_serving" / "package"
SCRIPTS = ("build.sh", "run.sh", "test.sh")
FILES = (
    "Dockerfile", ".dockerignore", *SCRIPTS, "test_bundle.py", "compose.yaml", ".env.example", "README.md",
    "requirements.in", "requirements.lock", "openapi.json",
)  # fmt: skip
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s\\;#]+)", re.M)


def text_of(name: str) -> str:
    return (PACKAGE / name).read_text("utf-8")


def pins(path: Path) -> dict[str, str]:
    return {name.lower().replace("_", "-"): version for name, version in REQUIREMENT.findall(path.read_text("utf-8"))}


def write_manifest(folder: Path) -> None:
    """As the export writes it."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    hashes = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    manifest = {
        "format": 1,
        "model": {"name": "tiny", "version": "3", "alias": None, "uri": "models:/tiny/3"},
        "weights_sha256": "0" * 64,
        "run_id": "r1",
        "engine": "torch",
        "image": "tiny:3",
        "files": hashes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A folder with the scripts and two files of a model; enough for the checks, not for an image."""
    folder = tmp_path / "a bundle"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("model/MLmodel", "model/artifacts/weights of it", "serving/fastapi_server.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, "utf-8")
    write_manifest(folder)
    return folder


def script(folder: Path, *command: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path else {})
    return subprocess.run(
        ["/bin/bash", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


# --- the scripts ---


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_itself_without_docker(name, tmp_path):
    done = script(PACKAGE, name, "--help", path=path_without_docker(tmp_path))
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: ./{name}")
    documented = set(re.findall(r"--[a-z-]+", done.stdout))
    parsed = set(re.findall(r"--[a-z-]+(?=(?: \| --[a-z-]+)*\))", text_of(name)))
    assert parsed - documented == set(), "an option that --help does not name"


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_option_is_refused_in_one_sentence(name):
    done = script(PACKAGE, name, "--nonsense")
    assert done.returncode == 1 and done.stderr.startswith("Error: unknown option --nonsense;")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_executable_and_strict(name):
    assert os.access(PACKAGE / name, os.X_OK)
    assert "\nset -euo pipefail\n" in text_of(name)


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        assert os.environ.get("CI") != "true", "shellcheck is missing"
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", *SCRIPTS], cwd=PACKAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def path_without_docker(folder: Path) -> str:
    """A PATH with the ordinary tools only."""
    tools = folder / "tools"
    tools.mkdir()
    for tool in ("awk", "cat", "cut", "dirname", "find", "grep", "sed", "sha256sum", "tail", "tar", "tr"):
        (tools / tool).symlink_to(shutil.which(tool))
    return str(tools)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_machine_without_docker_is_told(name, bundle, tmp_path):
    done = script(bundle, name, path=path_without_docker(tmp_path))
    assert (done.returncode, done.stderr) == (1, "Error: docker is not installed on this machine.\n")


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused(port, bundle):
    done = script(bundle, "run.sh", "--port", port)
    assert done.returncode == 1 and f"the port is {port};" in done.stderr


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "[::]", "192.168.1.5", "10.0.0.7"])
def test_an_address_that_others_reach_is_refused_without_keys(address, bundle):
    for how in (["--bind", address], ["--env-file", "its.env"]):
        (bundle / "its.env").write_text(f"BIND={address}\n", "utf-8")
        done = script(bundle, "run.sh", *how)
        assert done.returncode == 1 and "opens port 8000 to other machines, and there is no key" in done.stderr
        assert all(way in done.stderr for way in ("API_KEYS_FILE=FILE", ".env", "ALLOW_OPEN=true", "--bind"))
        assert done.stderr.count("\n") == 1


def test_a_port_of_the_machine_itself_needs_keys_too(bundle):
    done = script(bundle, "run.sh", "--network", "host")
    assert done.returncode == 1 and done.stderr.startswith("Error: 0.0.0.0 opens port 8000")


@pytest.mark.parametrize(
    "setting", ["API_KEYS=a-key-of-mine", "API_KEYS_FILE=keys.txt", "ADMIN_KEYS_FILE=keys.txt", "ALLOW_OPEN=true"]
)
def test_keys_or_saying_so_open_it(setting, bundle, tmp_path):
    """As far as the next thing that is missing."""
    (bundle / ".env").write_text(f"{setting}\nBIND=0.0.0.0\n", "utf-8")
    done = script(bundle, "run.sh", path=path_without_docker(tmp_path))
    assert done.stderr == "Error: docker is not installed on this machine.\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "[::1]", "localhost"])
def test_at_home_it_needs_no_keys(address, bundle, tmp_path):
    done = script(bundle, "run.sh", "--bind", address, path=path_without_docker(tmp_path))
    assert done.stderr == "Error: docker is not installed on this machine.\n"


def test_an_env_file_that_is_named_must_be_there(bundle):
    done = script(bundle, "run.sh", "--env-file", "nowhere.env")
    assert (done.returncode, done.stderr) == (1, "Error: nowhere.env cannot be read.\n")


# --- the check of the files ---


def test_a_whole_bundle_passes_its_check(bundle):
    assert script(bundle, "build.sh", "--check").returncode == 0


@pytest.mark.parametrize("name", ["model/artifacts/weights of it", "run.sh", "requirements.lock", ".dockerignore"])
def test_a_changed_byte_is_found(name, bundle):
    data = bytearray((bundle / name).read_bytes())
    data[0] ^= 1
    (bundle / name).write_bytes(data)
    done = script(bundle, "build.sh", "--check")
    assert done.returncode == 1 and done.stderr.endswith(f"\n{name}\n")


def test_a_missing_file_is_found(bundle):
    (bundle / "model" / "MLmodel").unlink()
    done = script(bundle, "build.sh", "--check")
    assert done.returncode == 1 and "model/MLmodel" in done.stderr


@pytest.mark.parametrize("name", ["serving/sitecustomize.py", "model/artifacts/code/extra.py", "wheels/extra.whl"])
def test_an_added_file_is_found(name, bundle):
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_text("", "utf-8")
    done = script(bundle, "build.sh", "--check")
    assert done.returncode == 1 and done.stderr.endswith(f"remove them:\n{name}\n")


def test_an_added_link_is_found(bundle):
    (bundle / "serving" / "linked.py").symlink_to("/etc/hostname")
    assert "serving/linked.py" in script(bundle, "build.sh", "--check").stderr


def test_settings_and_a_saved_image_may_be_added(bundle):
    for name in (".env", "image.tar.gz", "image.tar.gz.sha256", "offline_proof.json"):
        (bundle / name).write_text("", "utf-8")
    assert script(bundle, "build.sh", "--check").returncode == 0


@pytest.mark.parametrize("text", ["", "{}", '{"files": {}}'])
def test_a_manifest_without_files_is_refused(text, bundle):
    (bundle / "manifest.json").write_text(text, "utf-8")
    done = script(bundle, "build.sh", "--check")
    assert done.returncode == 1 and "manifest.json lists no files" in done.stderr


# --- the lock ---


def test_the_lock_has_the_repositorys_versions():
    wanted, locked = pins(PACKAGE / "requirements.in"), pins(PACKAGE / "requirements.lock")
    repository = pins(REPO / "requirements.txt") | pins(REPO / "genai_server" / "requirements.txt")
    assert wanted.items() <= locked.items()
    repository["mlflow-skinny"] = repository["mlflow"]
    assert {name: repository[name] for name in wanted} == wanted


def test_the_lock_has_what_the_served_model_and_the_server_need():
    from genai_lifecycle.models.packaging import ENGINE_REQUIREMENTS, REQUIREMENTS

    needed = {*REQUIREMENTS, *ENGINE_REQUIREMENTS["openvino"], *pins(REPO / "genai_server" / "requirements.txt")}
    assert needed - {"mlflow"} <= set(pins(PACKAGE / "requirements.lock"))


def test_the_lock_has_a_hash_for_every_package_and_none_that_serving_does_not_need():
    blocks = re.split(r"\n(?=[a-z0-9])", text_of("requirements.lock").strip())
    assert len(blocks) > 10
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks if "==" in block)
    assert not {"torch", "transformers", "mlflow", "scipy", "matplotlib", "nncf"} & set(
        pins(PACKAGE / "requirements.lock")
    )


# --- what must, and must not, stand in the files ---


def test_the_description_is_that_of_the_server():
    from genai_server.http.app import create_app
    from genai_server.settings import ServerSettings

    described = json.loads(text_of("openapi.json"))
    assert described == json.loads(json.dumps(create_app(ServerSettings()).openapi())), "`make docs` writes it anew"


def test_every_file_is_there():
    assert {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_registry_or_a_path_of_a_machine(name):
    found = re.findall(
        r"pypi\.org|pythonhosted|--index-url http|--trusted-host|docker\.io|ghcr\.io|/work/|/home/|/root/",
        text_of(name),
    )
    assert not found


def test_the_image_is_small_in_rights():
    dockerfile = text_of("Dockerfile")
    assert re.findall(r"^USER (.+)$", dockerfile, re.M) == ["10001:10001"]
    assert "\nEXPOSE 8000\n" in dockerfile and "HEALTHCHECK" in dockerfile and "curl" not in dockerfile
    assert "--mount" not in dockerfile and "--chmod" not in dockerfile and "<<" not in dockerfile, "needs BuildKit"
    assert "latest" not in dockerfile
    final = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert "PIP_" not in final, "index settings belong to the first stage only"


def test_every_setting_of_the_env_file_is_passed_on_by_compose():
    explained = set(re.findall(r"^#([A-Z_]+)=", text_of(".env.example"), re.M))
    used = set(re.findall(r"\$\{([A-Z_]+)", text_of("compose.yaml")))
    assert explained == used


def test_compose_mounts_keys_limits_the_memory_and_says_where_it_is_published():
    text = yaml.safe_load(text_of("compose.yaml"))
    server = text["services"]["server"]
    for name in ("api_keys", "admin_keys", "webhook_secret"):
        variable = f"{name.upper()}_FILE"
        assert name in server["secrets"] and text["secrets"][name] == {"file": f"${{{variable}:-/dev/null}}"}
        assert server["environment"][variable] == f"/run/secrets/{name}"
    assert server["mem_limit"] == "${MEMORY:-2g}" and "MEMORY:-2g" in text_of("run.sh")
    assert server["environment"]["PUBLISHED_HOST"] == "${BIND:-127.0.0.1}"
    assert server["ports"] == ["${BIND:-127.0.0.1}:${PORT:-8000}:8000"]


# --- test_bundle.py, against a real server ---


@pytest.fixture(scope="module")
def served(tmp_path_factory, saved_tiny):
    """A bundle's folder with a tiny model, and its address: the server as a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(saved_tiny, folder / "model")
    for name in ("test_bundle.py", "openapi.json"):
        shutil.copy(PACKAGE / name, folder)
    write_manifest(folder)
    port = free_port()
    environment = os.environ | {
        "MLFLOW_MODEL_URI": str(folder / "model"), "MODEL_INFO_FILE": str(folder / "manifest.json"),
        "PORT": str(port), "MLFLOW_TRACKING_URI": "", "API_KEYS": "a-key-of-this-test",
        "FEEDBACK_FILE": str(folder / "feedback.jsonl"),
    }  # fmt: skip
    process = forked.Popen([sys.executable, "fastapi_server.py"], cwd=REPO, env=environment)
    try:
        wait_until_ready(port, process)
        yield folder, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(port: int, process: forked.Popen) -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    raise AssertionError("the server did not become ready")


def ask_all(folder: Path, url: str, *flags: str, key: str = "a-key-of-this-test"):
    return subprocess.run(
        [sys.executable, "-B", str(folder / "test_bundle.py"), "--url", url, *flags],
        env=os.environ | {"API_KEYS": key}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_true_bundle_passes(served):
    done = ask_all(*served, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0, [check for check in result["checks"] if not check["passed"]]
    assert result["passed"] and result["golden_answers"] == 1


def changed(served: tuple[Path, str], tmp_path: Path, name: str, old: str, new: str):
    """The same server, asked with a folder in which one file says something else."""
    folder = tmp_path / "changed"
    shutil.copytree(served[0], folder)
    text = (folder / name).read_text("utf-8")
    assert re.search(old, text)
    (folder / name).write_text(re.sub(old, new, text, count=1), "utf-8")
    return ask_all(folder, served[1])


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("model/artifacts/golden.json", r'"token_ids": \[\s*\d+', '"token_ids": [1', "FAIL  POST /invocations  "),
        ("model/artifacts/golden.json", r'"answer": "', '"answer": "no ', "FAIL  POST /ask  "),
        ("manifest.json", '"version": "3"', '"version": "4"', "FAIL  GET /model/info"),
        ("manifest.json", '"weights_sha256": "0', '"weights_sha256": "1', "FAIL  GET /model/info"),
        ("openapi.json", '"/version"', '"/another"', "FAIL  GET /openapi.json"),
    ],
)
def test_a_difference_is_found(served, tmp_path, name, old, new, line):
    done = changed(served, tmp_path, name, old, new)
    assert done.returncode == 1 and line in done.stdout
    assert " checks failed" in done.stdout


def test_a_route_that_no_check_asks_is_found(served, tmp_path):
    done = changed(served, tmp_path, "openapi.json", '"paths": {', '"paths": {"/new": {"get": {}}, ')
    assert done.returncode == 1 and "('GET', '/new')" in done.stdout


def test_a_wrong_key_is_a_failure_and_no_crash(served):
    done = ask_all(*served, key="another-key")
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_nobody_there_is_a_failure_and_no_crash(served):
    done = ask_all(served[0], f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_readiness_is_an_exit_code(served):
    assert ask_all(*served, "--ready").returncode == 0
    assert ask_all(served[0], f"http://127.0.0.1:{free_port()}", "--ready").returncode == 1
