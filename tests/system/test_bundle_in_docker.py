"""The bundle as an operator uses it, on a real Docker engine: built offline, started with no network, asked.

One export and one build of the image serve all tests here: together they take most of the time.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from conftest import REPO, free_port
from stand_in_server import wait_until

from genai_lifecycle.config import BUNDLED_CASES, E2EConfig
from genai_lifecycle.stages.verify import VerifySettings, compare_server
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.tracking_store import open_store

pytestmark = pytest.mark.docker

DOCKER_UP = REPO.parent / "shared" / "bin" / "docker-up"  # makes an engine and the base image; not part of this project
BASE_IMAGE = "python:3.11-slim-bookworm"
IMAGE, NAME = f"bundle-in-docker-test:{os.getpid()}", f"bundle-in-docker-test-{os.getpid()}"
SECRET = "password-of-an-index"
MOST_BYTES_OVER_BASE = 450_000_000
MOST_BYTES_OF_MEMORY = 700 * 2**20
# Other work on the machine makes the clock useless: processor time is the part of the 8 s that is ours.
MOST_CPU_S_UNTIL_READY = 8.0
CASES = 24  # of the bundled ones: enough for golden answers, and an experiment of seconds
MODEL = "langchain-e2e-model"


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def has_engine() -> bool:
    return (
        shutil.which("docker") is not None and docker("version", "--format", "{{.Server.Version}}", check=False) != ""
    )


def has_base_image() -> bool:
    return has_engine() and docker("image", "inspect", "--format", "{{.Id}}", BASE_IMAGE, check=False) != ""


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    """A Docker engine with the base image; one that is started here is stopped again."""
    if has_base_image():
        yield
        return
    if not DOCKER_UP.exists():
        reason = f"no Docker engine with {BASE_IMAGE}, and no docker-up to make one"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    was_there = has_engine()
    subprocess.run([str(DOCKER_UP)], check=True, capture_output=True)
    yield
    if not was_there:
        subprocess.run([str(DOCKER_UP), "--stop"], check=True)


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> E2EConfig:
    """Where the exported version is registered; not below the checkout."""
    base = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{base / 'mlflow.db'}"
    return E2EConfig(
        backend_store_uri=uri, tracking_uri=uri, data_dir=str(base / "artifacts"), staging_dir=base / "staging"
    )


@pytest.fixture(scope="module")
def bundle(engine, registry, tmp_path_factory) -> Path:
    """What `--mode all` exports, with its wheels; fp32, which is the largest."""
    base = tmp_path_factory.mktemp("bundle")
    cases = BUNDLED_CASES.read_text("utf-8").splitlines(keepends=True)
    (base / "cases.jsonl").write_text("".join(cases[:: len(cases) // CASES][:CASES]), "utf-8")
    more = ["--cases", str(base / "cases.jsonl"), "--precision", "fp32", "--wheels"]
    lifecycle(registry, "all", base / "exported", *more)
    return base / "exported"


def lifecycle(registry: E2EConfig, mode: str, output_dir: Path, *more: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "e2e_mlflow.py", "--mode", mode, "--data-dir", registry.data_dir,
            "--tracking-uri", registry.tracking_uri, "--output-dir", str(output_dir), *more,
        ],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def script(bundle: Path, name: str, *options: str, tools: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One of the bundle's scripts, on this test's image and container."""
    ours = ["--tag", IMAGE] if name == "build.sh" else ["--tag", IMAGE, "--name", NAME]
    return subprocess.run(
        [f"./{name}", *ours, *options],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | ({"PATH": f"{tools}:{os.environ['PATH']}"} if tools else {}),
    )


@pytest.fixture(scope="module")
def built(bundle, tmp_path_factory) -> Iterator[Path]:
    """The image, built with no network, proved and saved; an index setting is there, as a careless operator has one."""
    setting = f"PIP_INDEX_URL=https://user:{SECRET}@index.invalid/simple"
    # To compress 600 MB takes 20 s and tests nothing of ours; docker load takes a plain archive as well.
    tools = tmp_path_factory.mktemp("tools")
    (tools / "gzip").write_text("#!/bin/sh\nexec cat\n", "utf-8")
    (tools / "gzip").chmod(0o755)
    options = ("--prove-offline", "--save-image", "--", "--build-arg", setting)
    done = script(bundle, "build.sh", *options, tools=tools)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    yield bundle
    docker("image", "rm", "--force", IMAGE, check=False)


@pytest.fixture(scope="module")
def started(built) -> Iterator[subprocess.CompletedProcess[str]]:
    """The container, without a network."""
    try:
        done = script(built, "run.sh", "--network", "none")
        assert done.returncode == 0, done.stdout + done.stderr
        yield done
    finally:
        clean_up()


def clean_up() -> None:
    docker("rm", "--force", NAME, check=False)
    docker("volume", "rm", "--force", f"{NAME}-data", check=False)


def inspected(template: str) -> str:
    return docker("container", "inspect", "--format", template, NAME)


def in_container(code: str) -> str:
    return docker("exec", NAME, "python", "-c", code)


# --- the folder ---


def test_the_same_export_twice_gives_the_same_files(bundle, registry, tmp_path):
    again = tmp_path / "again"
    lifecycle(registry, "export", again)
    first, second = (json.loads((folder / "manifest.json").read_text("utf-8")) for folder in (bundle, again))
    files = {path: sha256 for path, sha256 in first.pop("files").items() if not path.startswith("wheels/")}
    differ = {path for path, sha256 in second.pop("files").items() ^ files.items()}
    assert not differ and first | {"created": ""} == second | {"created": ""}


def test_no_path_of_this_machine_is_in_it(bundle, registry):
    places = [os.fsencode(place) for place in (REPO, bundle.parent, registry.staging_dir.parent)]
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix not in (".whl", ".gz"):
            assert not [place for place in places if place in path.read_bytes()], path


def test_a_changed_byte_in_any_file_is_found_before_the_start(bundle, tmp_path):
    """In all of them at once: each is named. The manifest has a test of its own below."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("*.whl", "image.tar.gz*"))
    listed = set(json.loads((copy / "manifest.json").read_text("utf-8"))["files"])
    for path in listed:
        if not path.endswith(".whl"):
            change_a_byte(copy / path)
    done = script(copy, "run.sh")
    assert done.returncode == 1 and "not as they were exported" in done.stderr
    assert set(done.stderr.splitlines()[1:]) == listed  # the wheels are missing
    assert docker("ps", "--all", "--quiet", "--filter", f"name={NAME}") == ""


def change_a_byte(path: Path) -> None:
    data = path.read_bytes()
    if path.suffix == ".sh":  # must still run
        path.write_bytes(data[:-1] + b" ")
    else:
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if data else b"x")


def test_without_the_base_image_an_offline_build_says_so(bundle):
    done = script(bundle, "build.sh", "--offline", "--base-image", "not-on-this-machine:1")
    assert done.returncode == 1
    assert "Error: the base image not-on-this-machine:1 is not on this machine; load it" in done.stderr


def test_the_base_image_may_be_pinned_by_a_variable(bundle):
    pinned = f"{BASE_IMAGE}@sha256:{'0' * 64}"
    done = subprocess.run(
        ["./build.sh", "--offline", "--tag", IMAGE], cwd=bundle, env=os.environ | {"BASE_IMAGE": pinned},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and f"the base image {pinned} is not on this machine" in done.stderr


# --- the image ---


def test_the_proof_says_what_was_built_and_what_it_answered(built):
    proof = json.loads((built / "offline_proof.json").read_text("utf-8"))
    golden = json.loads((built / "model" / "artifacts" / "golden.json").read_text("utf-8"))
    answers = json.dumps([item["token_ids"] for item in golden]).encode()
    assert proof["image_id"] == docker("image", "inspect", "--format", "{{.Id}}", IMAGE)
    assert proof["manifest_sha256"] == hashlib.sha256((built / "manifest.json").read_bytes()).hexdigest()
    assert (proof["network_of_the_build"], proof["network_of_the_container"]) == ("none", "none")
    assert (proof["golden_answers"], proof["golden_answers_sha256"]) == (
        len(golden), hashlib.sha256(answers).hexdigest(),
    )  # fmt: skip
    assert proof["bytes"]["image"] > proof["bytes"]["base_image"] > 0 and proof["bytes"]["wheels"] > 0
    assert all(seconds < 600 for seconds in proof["seconds"].values())
    assert docker("ps", "--all", "--quiet", "--filter", f"name={NAME}-proof") == ""


def test_the_image_is_no_larger_than_promised(built):
    size, base = (int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in (IMAGE, BASE_IMAGE))
    assert size - base <= MOST_BYTES_OVER_BASE


def test_no_index_setting_is_in_the_image(built):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    config = docker("image", "inspect", IMAGE)
    assert "COPY" in history and SECRET not in history + config and "PIP_" not in history + config


# --- the container ---


def test_it_says_when_it_is_ready(started):
    assert re.search(r"^Ready after \d+ s\.$", started.stdout, re.M)
    assert "./test.sh asks it from inside" in started.stdout


def test_it_has_no_more_rights_than_it_needs(started):
    assert in_container("import os; print(os.getuid(), os.getgid())") == "10001 10001"
    held = in_container("print([line for line in open('/proc/1/status') if line.startswith(('CapEff', 'NoNewPrivs'))])")
    assert held == r"['CapEff:\t0000000000000000\n', 'NoNewPrivs:\t1\n']"
    assert inspected("{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.NetworkMode}}") == "true none"
    assert in_container("import os; print(os.listdir('/sys/class/net'))") == "['lo']"


def test_it_is_started_again_after_a_crash_but_not_after_a_stop(started):
    """The policy is set once it is ready: a container that cannot start is not to try for ever."""
    assert inspected("{{.HostConfig.RestartPolicy.Name}}") == "unless-stopped"


def test_it_becomes_healthy(started):
    """As Docker itself sees it: one interval of the health check is 10 s."""
    for _ in range(60):
        if (health := inspected("{{.State.Health.Status}}")) != "starting":
            break
        subprocess.run(["sleep", "0.5"], check=True)
    assert health == "healthy"


def test_start_and_memory_are_as_promised(started):
    """Both before the first question."""
    used = in_container(
        "import glob, os\n"
        "fields = [open(p).read().rpartition(')')[2].split() for p in glob.glob('/proc/[0-9]*/stat')]\n"
        "print(sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf('SC_CLK_TCK'))"
    )
    assert float(used) <= MOST_CPU_S_UNTIL_READY
    amount, unit = re.match(
        r"([\d.]+)([KMG]iB)", docker("stats", "--no-stream", "--format", "{{.MemUsage}}", NAME)
    ).groups()
    assert float(amount) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit] <= MOST_BYTES_OF_MEMORY


def test_every_route_answers_as_recorded(built, started):
    done = script(built, "test.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Everything is as recorded.\n")


def test_neither_the_orchestrator_nor_torch_is_in_it(started):
    names = ["genai_lifecycle", "torch", "transformers", "boto3", "pip"]
    assert in_container(f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])") == "[]"


def test_another_recorded_answer_is_a_mismatch(built, started, tmp_path):
    """The expected answers come from the folder: an image that answers otherwise is found."""
    other = tmp_path / "other"
    shutil.copytree(built, other, ignore=shutil.ignore_patterns("wheels", "image.tar.gz*"))
    golden = other / "model" / "artifacts" / "golden.json"
    items = json.loads(golden.read_text("utf-8"))
    items[0]["token_ids"][0] += 1
    golden.write_text(json.dumps(items), "utf-8")
    done = script(other, "test.sh")
    assert done.returncode == 1 and "FAIL  POST /invocations " in done.stdout


def test_a_second_start_is_refused(built, started):
    done = script(built, "run.sh", "--port", str(free_port()))
    assert done.returncode == 1 and "is running already; ./run.sh --stop ends it" in done.stderr
    assert script(built, "run.sh", "--status").returncode == 0


def test_it_stops(built, started):
    """The last one of these: the container is gone afterwards."""
    done = script(built, "run.sh", "--stop")
    assert done.returncode == 0, done.stderr
    assert script(built, "run.sh", "--status").stdout == f"{NAME} is not there\n"
    assert script(built, "test.sh").returncode == 1


# --- starts that go otherwise ---


@pytest.fixture
def gone() -> Iterator[None]:
    clean_up()
    yield
    clean_up()


# not golden ones: what the recorded answers do not cover
QUESTIONS = ["What is a tensor?", "How do I log a metric?", "Who are you?", "Tell me about attention.", "äöü 你好"]


def test_it_answers_as_the_server_outside_docker_and_as_the_registry_says(built, registry, gone, tmp_path):
    """Both servers at once: the same tokens, and `--mode verify` finds no difference until the registry has one."""
    ports = free_port(), free_port()
    with served_outside(registry, ports[1], tmp_path):
        assert script(built, "run.sh", "--port", str(ports[0])).returncode == 0
        inside, outside = (answers(port) for port in ports)
        assert inside == outside and all(inside)
        for port in ports:
            report = verified(registry, port)
            assert not report.differences and report.checks[-1].name == "golden answers"
    open_store(registry)
    model_registry.tag_version(MODEL, "1", {"prompt": "qa-simple/9"})
    (difference,) = verified(registry, ports[0]).differences
    assert difference.name == "prompt" and difference.detail.endswith("the registry has qa-simple/9")


@contextmanager
def served_outside(registry: E2EConfig, port: int, folder: Path) -> Iterator[None]:
    """fastapi_server.py of the checkout, over the registry's champion."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": registry.tracking_uri, "MLFLOW_MODEL_URI": f"models:/{MODEL}@champion",
        "PORT": str(port), "FEEDBACK_FILE": str(folder / "feedback.jsonl"),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "fastapi_server.py"], cwd=REPO, env=environment)
    try:
        tester = [sys.executable, str(REPO / "demo_serving" / "package" / "test_bundle.py"), "--ready", "--wait", "120"]
        subprocess.run([*tester, "--url", f"http://127.0.0.1:{port}"], check=True)
        yield
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> list[list[int]]:
    body = json.dumps({"inputs": [{"question": text} for text in QUESTIONS]}).encode()
    asked = Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    with urlopen(asked, timeout=60) as reply:
        return [answer["token_ids"] for answer in json.load(reply)["predictions"]]


def verified(registry: E2EConfig, port: int):
    open_store(registry)
    return compare_server(registry, VerifySettings(url=f"http://127.0.0.1:{port}"))


def test_a_start_that_fails_shows_the_log(built, gone, tmp_path):
    (tmp_path / "wrong.env").write_text("LOG_LEVEL=loud\n", "utf-8")
    done = script(built, "run.sh", "--network", "none", "--env-file", str(tmp_path / "wrong.env"))
    assert done.returncode == 1
    assert "LOG_LEVEL is loud; use a value of" in done.stderr
    assert done.stderr.endswith("Error: the container ended before it was ready.\n")


def test_keys_of_the_env_file_are_asked_for(built, gone, tmp_path):
    (tmp_path / "keys.env").write_text("API_KEYS=a-key-of-this-test\nALLOWED_HOSTS=model.example.com\n", "utf-8")
    done = script(built, "run.sh", "--network", "none", "--env-file", str(tmp_path / "keys.env"))
    assert done.returncode == 0, done.stderr
    tested = script(built, "test.sh")
    assert tested.returncode == 0 and "closed (401)" in tested.stdout, tested.stdout


def status(port: int, path: str, key: str = "", host: str = "127.0.0.1", method: str = "GET") -> int:
    """Of what the published port answers."""
    asked = http.client.HTTPConnection(host, port, timeout=30)
    try:
        headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        asked.request(method, path, b'{"version": "3"}' if method == "POST" else None, headers)
        return asked.getresponse().status
    finally:
        asked.close()


def key_file(path: Path, key: str) -> Path:
    """For the container's user and nobody else, where the test may do so."""
    path.write_text(f"# of this test\n{key}\n", "utf-8")
    path.chmod(0o444)
    if os.getuid() == 0:
        path.chmod(0o400)
        os.chown(path, 10001, 10001)
    return path


CALLER, ADMIN = "callers-key-1", "admins-key-1"
GETS = {"": (401, 401), CALLER: (200, 403), ADMIN: (200, 409)}  # /model/info, and a reload


def answers_to_keys(port: int) -> dict[str, tuple[int, int]]:
    return {key: (status(port, "/model/info", key), status(port, "/admin/reload", key, method="POST")) for key in GETS}


def test_key_files_open_it_to_the_network_and_their_text_is_nowhere(built, gone, tmp_path):
    files = [f"{name}_KEYS_FILE={key_file(tmp_path / name, key)}" for name, key in (("API", CALLER), ("ADMIN", ADMIN))]
    (tmp_path / "keys.env").write_text("\n".join([*files, "MEMORY=1500m"]) + "\n", "utf-8")
    port = free_port()
    opened = ("--bind", "0.0.0.0", "--port", str(port), "--env-file", str(tmp_path / "keys.env"))
    done = script(built, "run.sh", *opened)
    assert done.returncode == 0 and "Bearer YOUR_KEY" in done.stdout, done.stdout + done.stderr
    assert answers_to_keys(port) == GETS
    assert "closed (401)" in script(built, "test.sh").stdout
    shown = docker("container", "inspect", NAME) + docker("logs", NAME)
    assert not any(key in shown for key in (CALLER, ADMIN))
    assert inspected("{{.HostConfig.Memory}}") == str(1500 * 2**20)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_on_this_machine_it_is_open_but_not_to_another_sites_page(built, gone, address):
    try:
        socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {address}")
    port = free_port()
    done = script(built, "run.sh", "--bind", address, "--port", str(port))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"http://{f'[{address}]' if ':' in address else address}:{port}/docs" in done.stdout
    assert status(port, "/model/info", host=address) == 200
    assert status(port, "/admin/reload", host=address, method="POST") == 403
    assert inspected("{{.HostConfig.Memory}}") == str(2 * 2**30)
    asked = http.client.HTTPConnection(address, port, timeout=30)
    asked.request("GET", "/model/info", headers={"Host": f"evil.example:{port}"})
    assert asked.getresponse().status == 400
    asked.close()


def test_too_little_memory_is_told(built, gone):
    done = script(built, "run.sh", "--network", "none", "--memory", "100m")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "Error: 100m of memory were too little; give it more with --memory, or MEMORY in .env.\n"
    )


def test_a_container_that_nobody_told_where_it_is_published_does_not_start_open(built, gone):
    done = subprocess.run(["docker", "run", "--rm", "--name", NAME, IMAGE], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("Error: HOST is 0.0.0.0, ") and "ALLOW_OPEN" in done.stderr


def test_a_port_in_use_is_told(built, gone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = script(built, "run.sh", "--port", str(port))
    assert (done.returncode, done.stderr) == (
        1, f"Error: port {port} is in use on this machine; choose another one with --port.\n",
    )  # fmt: skip


@pytest.fixture
def composed(built, gone, tmp_path) -> Iterator[Callable[..., str]]:
    """Runs compose in a folder of its own, with these lines in .env; what it started is gone at the end."""
    command = compose()
    shutil.copy(built / "compose.yaml", tmp_path)

    def run(*arguments: str, env: str = "") -> str:
        if env:
            (tmp_path / ".env").write_text(f"IMAGE={IMAGE}\n{env}", "utf-8")
        done = subprocess.run(
            [*command, "--project-name", NAME, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield run
    run("down", "--volumes")


def test_compose_starts_the_same_container(composed):
    port = free_port()
    composed("up", "--detach", env=f"PORT={port}\n")
    container = composed("ps", "--quiet")
    docker("exec", container, "python", "/app/test_bundle.py", "--ready", "--wait", "60")
    rights = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.Config.User}}"
    rights += " {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Memory}}"
    held = docker("container", "inspect", "--format", rights, container)
    assert held == f"true [ALL] [no-new-privileges] 10001:10001 unless-stopped {2 * 2**30}"
    assert status(port, "/model/info") == 200 and status(port, "/admin/reload", method="POST") == 403


def test_compose_mounts_key_files(composed, tmp_path):
    key_file(tmp_path / "keys.txt", CALLER)
    key_file(tmp_path / "admins.txt", ADMIN)
    port = free_port()
    keys = "API_KEYS_FILE=keys.txt\nADMIN_KEYS_FILE=./admins.txt\n"
    composed("up", "--detach", env=f"PORT={port}\nBIND=0.0.0.0\nMEMORY=1g\n{keys}")
    container = composed("ps", "--quiet")
    docker("exec", container, "python", "/app/test_bundle.py", "--ready", "--wait", "60")
    assert answers_to_keys(port) == GETS
    shown = docker("container", "inspect", container)
    assert not any(key in shown for key in (CALLER, ADMIN)) and f'"Memory": {2**30}' in shown


def test_compose_does_not_open_it_to_others_without_keys(composed):
    composed("up", "--detach", env=f"PORT={free_port()}\nBIND=0.0.0.0\n")
    wait_until(lambda: "PUBLISHED_HOST is 0.0.0.0" in composed("logs", "--no-color"), 60)
    assert "API_KEYS" in composed("logs", "--no-color") and "ALLOW_OPEN" in composed("logs", "--no-color")


def compose() -> list[str]:
    """The plugin, or the program of before it."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        assert os.environ.get("CI") != "true", "docker compose is missing"
        pytest.skip("no docker compose")
    return ["docker-compose"]


def test_a_changed_manifest_is_another_bundle_than_the_images(built, gone, tmp_path):
    """Also for an image that was never built from any bundle."""
    copy = tmp_path / "copy"
    shutil.copytree(built, copy, ignore=shutil.ignore_patterns("image.tar.gz*"), copy_function=os.link)
    text = (copy / "manifest.json").read_text("utf-8")
    (copy / "manifest.json").unlink()  # a link so far
    (copy / "manifest.json").write_text(text.replace('"created": "2', '"created": "3'), "utf-8")
    for image in (IMAGE, BASE_IMAGE):
        done = subprocess.run(
            ["./run.sh", "--tag", image, "--name", NAME], cwd=copy, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and f"the image {image} was built from another bundle" in done.stderr


def test_a_saved_image_is_loaded_where_there_is_none(built, gone):
    """The last test of the file: it takes the image away."""
    docker("image", "rm", IMAGE)
    saved, whole = built / "image.tar.gz", (built / "image.tar.gz.sha256").read_text("utf-8")
    (built / "image.tar.gz.sha256").write_text("0" * 64 + whole[64:], "utf-8")
    refused = script(built, "run.sh", "--network", "none")
    assert refused.returncode == 1 and "image.tar.gz is not as it was saved" in refused.stderr
    (built / "image.tar.gz.sha256").write_text(whole, "utf-8")
    done = script(built, "run.sh", "--network", "none")
    assert done.returncode == 0 and "Loading image.tar.gz" in done.stdout, done.stderr
    saved.unlink()
