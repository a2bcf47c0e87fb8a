"""Mode `export`: which version is taken, what is refused, and a real version that answers out of its bundle."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlflow
import pytest

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.errors import BundleError, ExportDeclined, NotFound, StorageFailed, TrackingUnavailable
from genai_lifecycle.models import bundle, packaging
from genai_lifecycle.models.fingerprint import artifacts_sha256
from genai_lifecycle.stages import export as stage
from genai_lifecycle.stages.export import ExportResult, ExportSettings, export_model
from genai_lifecycle.store import model_registry
from genai_lifecycle.store.tracking_store import open_store

WEIGHTS = b"\x80\x02 weights, whose first bytes are a number"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FILES = {
    "MLmodel": b"flavors:\n  python_function:\n    artifacts:\n      model:\n        uri: /tmp/files/model\n",
    "huggingface_model.py": b"import mlflow",
    "artifacts/prompt.json": b'{"name": "qa-simple", "version": 2, "template": "{{question}}", "turn_format": "plain"}',
    "artifacts/golden.json": b'[{"question": "a", "token_ids": [1]}]',
    "artifacts/code/__init__.py": b"",
    "artifacts/model/config.json": b'{"_name_or_path": "gpt2"}',
    "artifacts/model/tokenizer.json": b'{"model": {}}',
    "artifacts/model/model.safetensors": WEIGHTS,
    "artifacts/ir/openvino_model.xml": b"<net/>",
    "artifacts/ir/openvino_model.bin": b"\x80\x04 weights",
    "artifacts/ir/conversion.json": b'{"converted": true, "precision": "int8", "reason": "fast"}',
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> E2EConfig:
    """A store of its own without a version."""
    base = tmp_path_factory.mktemp("export")
    uri = f"sqlite:///{base / 'mlflow.db'}"
    config = E2EConfig(
        backend_store_uri=uri, tracking_uri=uri, data_dir=str(base / "artifacts"), staging_dir=base / "staging",
        registered_model_name="My_Model.v2",
    )  # fmt: skip
    open_store(config)
    mlflow.MlflowClient().create_registered_model(config.registered_model_name)
    return config


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    """A small package in the place of the real one."""
    package = tmp_path_factory.mktemp("package")
    for name in bundle.NEEDED_OF_PACKAGE:
        (package / name).write_text(name)
    monkeypatch.setattr(bundle, "PACKAGE", package)


@dataclass(frozen=True)
class Request:
    """Which version is to be exported, and where to."""

    config: E2EConfig
    settings: ExportSettings

    def but(self, **changes) -> Request:
        return replace(self, settings=replace(self.settings, **changes))

    def with_config(self, **changes) -> Request:
        return replace(self, config=replace(self.config, **changes))

    def folder(self, name: str) -> Path:
        return getattr(self.config, name, None) or getattr(self.settings, name)


@pytest.fixture
def version(registry, tmp_path):
    """Registers a version with FILES as changed by keyword (None = left out); returns what names it."""
    open_store(registry)

    def make(changes: dict[str, bytes | None] | None = None, tags: dict[str, str] | None = None) -> Request:
        folder = tmp_path / f"source{len(list(tmp_path.iterdir()))}"
        for name, content in (FILES | (changes or {})).items():
            if content is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        tags = {"weights_sha256": SHA256, "model": "gpt2", "run_id": "r1"} if tags is None else tags
        made = mlflow.MlflowClient().create_model_version(registry.registered_model_name, str(folder), tags=tags)
        uri = f"models:/{registry.registered_model_name}/{made.version}"
        return Request(registry, ExportSettings(model_uri=uri, output_dir=tmp_path / "out"))

    return make


def export(request: Request) -> ExportResult:
    return export_model(request.config, open_store(request.config), request.settings)


def assert_refused(request: Request, sentence: str, kind: type = BundleError) -> None:
    with pytest.raises(kind) as error:
        export(request)
    assert type(error.value) is kind
    assert re.search(sentence, error.value.args[0]) and error.value.hint, error.value
    assert not request.settings.output_dir.exists()
    assert not list(request.config.staging_dir.glob("scratch-*"))


# --- a version that may be exported ---------------------------------------------------------------


def test_the_bundle_says_what_it_holds(version):
    request = version()
    result = export(request)
    manifest = json.loads((request.settings.output_dir / "manifest.json").read_text("utf-8"))
    number = request.settings.model_uri.rpartition("/")[2]
    uri = request.settings.model_uri
    assert manifest["model"] == {"name": "My_Model.v2", "version": number, "alias": None, "uri": uri}
    told = {name: manifest[name] for name in ("base_model", "base_model_revision", "prompt", "run_id", "precision")}
    assert told == {
        "base_model": "gpt2", "base_model_revision": None, "prompt": "qa-simple/2", "run_id": "r1", "precision": "int8"
    }  # fmt: skip
    assert manifest["weights_sha256"] == SHA256 and manifest["engine"] == "openvino"
    assert manifest["image"] == f"my-model-v2:{number}" == result.image
    assert (result.folder, result.files) == (str(request.settings.output_dir.resolve()), len(manifest["files"]))
    for name, content in FILES.items():
        assert (request.settings.output_dir / "model" / name).read_bytes() == content


def test_the_registrys_own_files_stay_as_they_are(version, tmp_path):
    request = version()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    export(request)
    assert before == {path: path.read_bytes() for path in before}, "the store's own files"
    assert not list(request.config.staging_dir.glob("scratch-*"))


def test_by_alias_and_the_champion_by_default(version, registry):
    request, client = version(), mlflow.MlflowClient()
    number = request.settings.model_uri.rpartition("/")[2]
    default = request.but(model_uri=None)
    assert_refused(default, "No version of 'My_Model.v2' is champion yet", NotFound)
    client.set_registered_model_alias(registry.registered_model_name, "champion", number)
    try:
        assert (export(default).version, export(default).alias) == (number, "champion")
        by_alias = request.but(model_uri="models:/My_Model.v2@champion")
        assert export(by_alias).version == number
    finally:
        client.delete_registered_model_alias(registry.registered_model_name, "champion")


def test_another_versions_bundle_takes_the_place_of_the_one_before(version):
    export(version())
    newer = version()
    export(newer)
    manifest = json.loads((newer.settings.output_dir / "manifest.json").read_text("utf-8"))
    assert manifest["model"]["uri"] == newer.settings.model_uri


def test_a_bundle_that_was_changed_stays_and_nothing_is_fetched(version, monkeypatch):
    request = version()
    export(request)
    (request.settings.output_dir / ".env").write_text("API_KEYS=secret")
    with monkeypatch.context() as patch:
        patch.setattr(model_registry, "download", lambda *given: pytest.fail("fetched"))
        with pytest.raises(BundleError, match=r"\.env was added"):
            export(version())
    export(version().but(overwrite=True))
    assert not (request.settings.output_dir / ".env").exists()


def test_nothing_of_the_store_is_overwritten(version):
    request = version()
    for place in (Path(request.config.data_dir), request.config.staging_dir, Path(request.config.data_dir).parent):
        place.mkdir(exist_ok=True)
        (place / "kept").write_text("")
        with pytest.raises(BundleError, match="is not overwritten"):
            export(request.but(output_dir=place, overwrite=True))
        assert (place / "kept").exists()


# --- bad input ------------------------------------------------------------------------------------


def test_an_unknown_version_alias_or_name(version):
    request = version()
    assert_refused(request.but(model_uri="models:/My_Model.v2/999"), "no version 999 of 'My_Model.v2'", NotFound)
    assert_refused(request.but(model_uri="models:/My_Model.v2@gone"), "with the alias 'gone'", NotFound)
    assert_refused(request.but(model_uri="models:/other/1"), "no version 1 of 'other'", NotFound)


def test_files_that_are_gone(version, tmp_path):
    request = version()
    for folder in tmp_path.glob("source*"):
        folder.rename(tmp_path / "moved")
    assert_refused(request, "files of models:/My_Model.v2/.* are not in the artifact store any more", NotFound)


def test_an_output_path_that_is_a_file(version, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file"):
        export(version().but(output_dir=tmp_path / "file"))


@pytest.mark.parametrize("place", ["staging_dir", "output_dir"])
def test_too_little_space_is_told_before_anything_is_fetched(version, monkeypatch, place):
    request = version()
    store, full, usage = open_store(request.config), request.folder(place), bundle.shutil.disk_usage
    monkeypatch.setattr(model_registry, "download", lambda *given: pytest.fail("fetched"))
    monkeypatch.setattr(model_registry, "size_bytes", lambda version: 10_000_000)
    monkeypatch.setattr(
        bundle.shutil, "disk_usage", lambda path: usage(path)._replace(free=10 if full.is_relative_to(path) else 10**12)
    )
    with pytest.raises(BundleError, match="Only 0 MB are free at .*; the export needs (10|60) MB"):
        export_model(request.config, store, request.settings)
    assert not request.settings.output_dir.exists()


def test_a_staging_folder_that_cannot_be_made(version, tmp_path):
    (tmp_path / "file").write_text("")
    request = version().with_config(staging_dir=tmp_path / "file" / "staging")
    with pytest.raises(StorageFailed, match="Cannot write .*file/staging: Not a directory") as error:
        export(request)
    assert "LIFECYCLE_STAGING_DIR" in error.value.hint


# --- versions that must not be exported -----------------------------------------------------------


def torch_zip(tmp_path: Path) -> bytes:
    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "weights")
    return (tmp_path / "weights").read_bytes()


@pytest.mark.parametrize(
    "name",
    ["python_model.pkl", "artifacts/model/pytorch_model.bin", "artifacts/model/weights.PT", "artifacts/x.joblib",
     "artifacts/model/openvino_model.bin"],
)  # fmt: skip
def test_a_pickle_by_its_name(version, name):
    assert_refused(version({name: b"x"}), f"holds a pickle, {re.escape(name)}")


def test_a_pickle_under_another_name(version, tmp_path):
    disguised = "artifacts/model/vocab.json"
    assert_refused(version({disguised: pickle.dumps([1])}), f"holds a pickle, {disguised}")
    assert_refused(version({disguised: torch_zip(tmp_path)}), f"holds a pickle, {disguised}")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"MLmodel": b"artifacts:\n  model:\n    uri: hf:/gpt2\n"}, "MLmodel: uri: hf:/gpt2"),
        ({"MLmodel": b"transformers:\n  source_model_name: gpt2\n"}, "source_model_name: gpt2"),
        ({"artifacts/model/config.json": b'{"auto_map": {"AutoModel": "org/repo--code.Model"}}'}, "another repository"),
        ({"artifacts/model/adapter_config.json": b"{}"}, "without its base model"),
        ({"artifacts/model/model.safetensors": None}, "no weights of its own"),
    ],
)
def test_a_version_that_still_points_at_the_hub(version, changes, pointer):
    assert_refused(version(changes), f"still points at the HuggingFace Hub .*{pointer}")


def test_a_version_that_torch_answers_for(version):
    torch = b'{"converted": false, "reason": "the architecture \'llama\' is not converted"}'
    request = version({"artifacts/ir/conversion.json": torch})
    assert_refused(request, "answers with torch .the architecture 'llama' is not converted., and", ExportDeclined)
    assert_refused(version({"artifacts/ir/conversion.json": None}), "it has no converted model", ExportDeclined)


@pytest.mark.parametrize("name", stage.CONVERTED)
def test_a_converted_model_that_is_not_whole(version, name):
    assert_refused(version({f"artifacts/ir/{name}": None}), f"has lost a file of its converted model, {name}")


@pytest.mark.parametrize("name", ["golden.json", "prompt.json", "code/__init__.py", "model/tokenizer.json"])
def test_a_version_that_another_program_made(version, name):
    assert_refused(version({f"artifacts/{name}": None}), f"not made by --mode deploy: it has no artifacts/{name}")


def test_a_damaged_prompt(version):
    assert_refused(version({"artifacts/prompt.json": b'{"name": '}), "has a damaged file, artifacts/prompt.json")


def test_weights_that_are_not_those_that_were_registered(version):
    changed = version({"artifacts/model/model.safetensors": WEIGHTS + b"!"})
    assert_refused(changed, f"The weights of version .* have sha256 .*, and {SHA256[:12]} was registered")
    assert_refused(version(tags={}), "and None was registered")


# --- S3 -------------------------------------------------------------------------------------------

S3 = {"s3_endpoint_url": "http://127.0.0.1:9", "s3_access_key": "our-key", "s3_secret_key": "our-secret"}


@pytest.mark.parametrize("change", [{"artifacts/code/__init__.py": b"import os"}, {"artifacts/code/more.py": b""}])
def test_a_file_that_is_not_as_it_was_registered(version, tmp_path, change):
    """Code as well: it runs wherever the bundle does."""
    tags = {"weights_sha256": SHA256} | registered(tmp_path)
    assert_refused(version(change, tags), r"The files in artifacts/ of version \d+ .* are not those that were reg")


@pytest.mark.parametrize("name", packaging.ENTRY)
def test_a_file_that_loads_the_model_is_not_as_it_was_registered(version, tmp_path, name):
    tags = {"weights_sha256": SHA256} | registered(tmp_path)
    assert_refused(
        version({name: b"import os"}, tags), "The files MLmodel and huggingface_model.py of version .* are not"
    )


def test_all_files_as_they_were_registered(version, tmp_path):
    assert export(version(tags={"weights_sha256": SHA256} | registered(tmp_path))).files


def registered(tmp_path: Path) -> dict[str, str]:
    """What deploy records of FILES."""
    folder = tmp_path / "registered"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {
        "artifacts_sha256": artifacts_sha256(folder / "artifacts", packaging.ARTIFACTS.values()),
        "entry_sha256": artifacts_sha256(folder, packaging.ENTRY),
    }


def test_a_damaged_description(version):
    assert_refused(version({"MLmodel": b"flavors: ["}), "MLmodel cannot be read")


def test_no_path_of_this_machine_leaves_and_what_the_registry_has_is_told(version):
    logged = b"artifact_path: /home/a\nflavors:\n  python_function:\n    model_code_path: /home/a/code.py\n"
    request = version({"MLmodel": logged})
    export(request)
    assert b"/home/" not in (request.settings.output_dir / "model" / "MLmodel").read_bytes()
    manifest = json.loads((request.settings.output_dir / "manifest.json").read_text("utf-8"))
    assert manifest["changed_from_registry"] == {"model/MLmodel": hashlib.sha256(logged).hexdigest()}


def test_the_s3_flags_are_in_the_environment_during_the_download_only(version, monkeypatch):
    seen, download = {}, model_registry.download

    def looking(*given):
        seen.update(os.environ)
        return download(*given)

    monkeypatch.setattr(model_registry, "download", looking)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "before")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    result = export(version().with_config(**S3))
    assert (seen["AWS_ACCESS_KEY_ID"], seen["AWS_SECRET_ACCESS_KEY"]) == ("our-key", "our-secret")
    assert seen["MLFLOW_S3_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "before" and "AWS_SECRET_ACCESS_KEY" not in os.environ
    assert "MLFLOW_S3_ENDPOINT_URL" not in os.environ
    assert "our-" not in str(asdict(result))


def test_no_key_is_kept_or_shown(version):
    request = version().with_config(**S3)
    export(request)
    assert "our-" not in repr(request)
    files = [path for path in request.settings.output_dir.rglob("*") if path.is_file()]
    kept = [path for path in files if b"our-secret" in path.read_bytes()]
    assert kept == []


def in_s3(request: Request) -> Request:
    made = mlflow.MlflowClient().create_model_version(request.config.registered_model_name, "s3://bucket/model")
    return request.but(model_uri=f"models:/{request.config.registered_model_name}/{made.version}")


def test_without_the_s3_client(version, monkeypatch):
    for package in ("boto3", "botocore"):
        monkeypatch.setitem(sys.modules, package, None)
    assert_refused(in_s3(version()), "needs the package boto3, which is not installed", TrackingUnavailable)


def test_an_s3_store_that_does_not_answer(version, monkeypatch):
    failure = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})

    def refuse(*given, **more):
        raise failure("Could not connect")

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", refuse)
    assert_refused(version(), "S3 store .* does not hand them out .EndpointConnectionError", TrackingUnavailable)


# --- a real version -------------------------------------------------------------------------------


def test_a_deployed_version_answers_out_of_its_bundle(life, deployed, tmp_path, monkeypatch):
    """The server, pointed at the bundle's model folder and manifest, replays the golden answers and says who it is."""
    from fastapi.testclient import TestClient

    from genai_server.http.app import create_app
    from genai_server.settings import ServerSettings

    uri = f"models:/{deployed.name}/{deployed.version}"
    result = export_model(life.config, life.store, ExportSettings(model_uri=uri, output_dir=tmp_path / "out"))
    monkeypatch.setenv("MODEL_INFO_FILE", str(tmp_path / "out" / "manifest.json"))
    monkeypatch.setenv("MLFLOW_MODEL_URI", str(tmp_path / "out" / "model"))
    with TestClient(create_app(ServerSettings.from_env())) as client:
        deadline = time.monotonic() + 60
        while client.get("/health/ready").status_code != 200:
            assert time.monotonic() < deadline, client.get("/health/ready").text
            time.sleep(0.05)
        info = client.get("/model/info").json()
        answer = client.post("/ask", json={"question": "What is overfitting?"}).json()
    assert (info["model"], info["model_version"], info["run_id"]) == (deployed.name, deployed.version, deployed.run_id)
    assert info["weights_sha256"] == deployed.weights_sha256 == result.weights_sha256
    assert info["engine"]["name"] == "openvino" and info["prompt"] == str(deployed.prompt)
    assert answer["answer"] == "Overfitting is learning the data too closely."
