"""Transfers through MLflow's own S3 client: in parts and at once, seen, tried again, and checked by sha256."""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import replace

import pytest

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.store.s3.problems import explained
from genai_lifecycle.store.s3.session import CHECKSUMS, ENDPOINT, connect, new_client, prepare

BUCKET = "transfers"
BIG_BYTES = 70 << 20  # more than is shown from, in several parts


# --- settings -------------------------------------------------------------------------------------


def test_a_store_that_is_not_amazons_gets_no_new_checksum_headers():
    environment: dict[str, str] = {}
    prepare("http://minio.example:9000", environment)
    assert environment[ENDPOINT] == "http://minio.example:9000"
    assert environment.items() >= CHECKSUMS.items()
    assert environment["AWS_RETRY_MODE"] == "standard"


@pytest.mark.parametrize("endpoint", [None, "https://s3.eu-west-1.amazonaws.com"])
def test_amazon_gets_them(endpoint):
    environment: dict[str, str] = {}
    prepare(endpoint, environment)
    assert not environment.keys() & CHECKSUMS.keys()


def test_a_variable_that_the_user_has_set_stays():
    mine = {"AWS_MAX_ATTEMPTS": "9", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"}
    environment = dict(mine)
    prepare("http://minio.example:9000", environment)
    assert environment.items() >= mine.items()


# --- transfers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(s3_store) -> None:
    s3_store.client().create_bucket(Bucket=BUCKET)


@pytest.fixture
def client(bucket, s3_store, monkeypatch):
    """As MLflow makes it, on the store."""
    for name, value in s3_store.environment.items():
        monkeypatch.setenv(name, value)
    prepare(s3_store.url)
    connect()
    return new_client()


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    import numpy as np

    file = tmp_path_factory.mktemp("big") / "model.safetensors"
    file.write_bytes(np.random.default_rng(0).bytes(BIG_BYTES))
    return file


@pytest.mark.s3
def test_a_large_file_goes_in_parts_at_once_and_comes_back_whole(client, s3_store, big, tmp_path, caplog):
    caplog.set_level(logging.INFO, "genai_lifecycle")
    parts, threads, largest = [], set(), []

    def watch(params, **_):
        parts.append(params["url_path"])
        threads.add(threading.get_ident())
        largest.append(int(params["headers"].get("Content-Length", 0)))

    client.meta.events.register("before-call.s3.UploadPart", watch)
    client.upload_file(str(big), BUCKET, "a/model.safetensors")
    assert len(parts) == 5 and len(threads) > 1
    client.download_file(BUCKET, "a/model.safetensors", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    stored = s3_store.client().head_object(Bucket=BUCKET, Key="a/model.safetensors")
    assert stored["Metadata"]["sha256"] == hashlib.sha256(big.read_bytes()).hexdigest()
    assert "Uploading model.safetensors, MB: 73 of 73" in caplog.text
    assert "Downloading back, MB: 73 of 73" in caplog.text


@pytest.mark.s3
def test_a_file_that_the_store_has_damaged_is_not_handed_out(client, s3_store, tmp_path):
    (tmp_path / "file").write_bytes(b"as it was")
    client.upload_file(str(tmp_path / "file"), BUCKET, "a/file")
    stored = s3_store.client().head_object(Bucket=BUCKET, Key="a/file")
    s3_store.client().put_object(Bucket=BUCKET, Key="a/file", Body=b"as it is!", Metadata=stored["Metadata"])
    with pytest.raises(StorageFailed, match="s3://transfers/a/file is damaged"):
        client.download_file(BUCKET, "a/file", str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


@pytest.mark.s3
def test_a_file_of_another_tool_is_taken_as_it_is(client, s3_store, tmp_path):
    s3_store.client().put_object(Bucket=BUCKET, Key="a/foreign", Body=b"no sha256")
    client.download_file(BUCKET, "a/foreign", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"no sha256"


@pytest.mark.s3
def test_the_user_s_own_metadata_is_kept(client, s3_store, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    client.upload_file(str(tmp_path / "file"), BUCKET, "a/mine", ExtraArgs={"Metadata": {"team": "a"}})
    assert s3_store.client().head_object(Bucket=BUCKET, Key="a/mine")["Metadata"].keys() == {"team", "sha256"}


@pytest.mark.s3
def test_a_connection_that_breaks_is_tried_again(client, s3_store, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    with s3_store.relay(dropped=2) as port:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{port}")
        new_client().upload_file(str(tmp_path / "file"), BUCKET, "a/retried")
    assert s3_store.objects(BUCKET, "a/retried") == {"a/retried": b"x" * 1000}


@pytest.mark.s3
def test_many_files_are_deleted_although_the_store_insists_on_an_md5(client, s3_store):
    for name in ("a", "b"):
        s3_store.client().put_object(Bucket=BUCKET, Key=f"gone/{name}", Body=b"x")
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "gone/a"}, {"Key": "gone/b"}]})
    assert s3_store.objects(BUCKET, "gone/") == {}


@pytest.mark.s3
def test_the_store_is_killed_in_the_middle_of_a_file(client, s3_store, big, monkeypatch):
    """Nothing is seen of the file; it goes through when the store is back."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    hasty, parts = new_client(), []

    def kill(**_):
        parts.append(1)
        if len(parts) == 3:
            s3_store.kill()

    hasty.meta.events.register("before-call.s3.UploadPart", kill)
    try:
        with pytest.raises(Exception) as caught:
            hasty.upload_file(str(big), BUCKET, "a/broken-off")
        said = str(explained(caught.value))  # which of the two is a matter of moments
        assert "No S3 store answers at" in said or "broke the connection off" in said
    finally:
        s3_store.start()
    assert s3_store.objects(BUCKET, "a/broken-off") == {}
    client.upload_file(str(big), BUCKET, "a/broken-off")
    assert s3_store.client().head_object(Bucket=BUCKET, Key="a/broken-off")["ContentLength"] == BIG_BYTES


# --- through MLflow -------------------------------------------------------------------------------


@pytest.fixture
def run_in_s3(s3_store, make_config, monkeypatch):
    """A run whose artifacts are in the store, with one file logged; returns its id and the store."""
    from genai_lifecycle.store import runs
    from genai_lifecycle.store.tracking_store import open_store

    for name, value in s3_store.environment.items():
        monkeypatch.setenv(name, value)
    config = make_config(data_dir="s3://through-mlflow/team")
    open_store(replace(config, tracking_uri=config.backend_store_uri))
    folder = config.staging_dir / "logged"
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("as it was", "utf-8")
    with runs.run("a run", "test") as run_id:
        runs.log_folder(folder)
    return run_id


@pytest.mark.s3
def test_mlflow_s_files_are_stored_with_their_sha256_and_checked(run_in_s3, s3_store, tmp_path):
    from genai_lifecycle.store import runs

    assert runs.download(run_in_s3, "report.md", tmp_path).read_text("utf-8") == "as it was"
    (key,) = s3_store.objects("through-mlflow")
    assert key.startswith("team/langchain-e2e/")
    stored = s3_store.client().head_object(Bucket="through-mlflow", Key=key)
    s3_store.client().put_object(Bucket="through-mlflow", Key=key, Body=b"as it is!", Metadata=stored["Metadata"])
    with pytest.raises(StorageFailed, match="report.md is damaged") as caught:
        runs.download(run_in_s3, "report.md", tmp_path / "again")
    assert caught.value.exit_code == 11 and "deploy again" in caught.value.hint


@pytest.mark.s3
def test_another_bucket_or_folder_has_an_experiment_of_its_own(run_in_s3, make_config):
    from genai_lifecycle.store.tracking_store import open_store

    uri = make_config().backend_store_uri
    for elsewhere in ("s3://through-mlflow/tea", make_config().data_dir):
        store = open_store(make_config(tracking_uri=uri, data_dir=elsewhere))
        assert store.elsewhere == "s3://through-mlflow/team/langchain-e2e"
        assert store.artifact_root == f"{elsewhere}/{store.experiment_name}"
