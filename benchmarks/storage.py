"""A large model into S3 and back: MLflow as we configure it, beside boto3 alone on the same store.

`python benchmarks/storage.py` needs a store: MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. It
writes to a bucket of its own, which it deletes. "Ours" is what the stages call, with sha256 stored and checked;
"boto3" is `upload_file` and `download_file` with boto3's defaults, in a process of its own. The two take turns, and
the medians are compared. The seconds of one sha256 are shown: they are what the check costs, once each way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

PEER = """
import json, sys, time, boto3
folder, back, bucket = sys.argv[1:]
client = boto3.client("s3", endpoint_url=__import__("os").environ["MLFLOW_S3_ENDPOINT_URL"])
started = time.monotonic()
client.upload_file(f"{folder}/model.safetensors", bucket, "alone/model.safetensors")
uploaded = time.monotonic()
client.download_file(bucket, "alone/model.safetensors", f"{back}/model.safetensors")
print(json.dumps({"upload": uploaded - started, "download": time.monotonic() - uploaded}))
"""


def make_model(folder: Path, megabytes: int) -> Path:
    """One file of random bytes, as weights are: nothing on the way can compress it."""
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))
    return folder


def alone(folder: Path, back: Path, bucket: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", PEER, str(folder), str(back), bucket], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def ours(folder: Path, back: Path) -> dict[str, float]:
    """Into a run and out of it, as the stages do."""
    from genai_lifecycle.store import runs

    with runs.run("benchmark", "benchmark") as run_id:
        started = time.monotonic()
        runs.log_folder(folder)
        uploaded = time.monotonic()
    before = time.monotonic()
    runs.download(run_id, "model.safetensors", back)
    return {"upload": uploaded - started, "download": time.monotonic() - before}


def sha256_s(folder: Path) -> float:
    started = time.monotonic()
    with (folder / "model.safetensors").open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.monotonic() - started


def measure(base: Path, bucket: str, rounds: int, megabytes: int) -> str:
    from genai_lifecycle.config import E2EConfig
    from genai_lifecycle.store.environment import prepare
    from genai_lifecycle.store.tracking_store import open_store

    prepare(base)
    uri = f"sqlite:///{base / 'mlflow.db'}"
    open_store(E2EConfig(tracking_uri=uri, data_dir=f"s3://{bucket}/ours", s3_endpoint_url=endpoint()))
    model, times = make_model(base / "model", megabytes), {"ours": [], "boto3 alone": []}
    for number in range(rounds):
        order = ("ours", "boto3 alone") if number % 2 else ("boto3 alone", "ours")
        for who in order:
            back = base / "back"
            back.mkdir()
            times[who].append(ours(model, back) if who == "ours" else alone(model, back, bucket))
            same = (back / "model.safetensors").stat().st_size == (model / "model.safetensors").stat().st_size
            assert same, "not everything came back"
            shutil.rmtree(back)
    return table(times, megabytes, sha256_s(model))


def table(times: dict[str, list[dict[str, float]]], megabytes: int, check_s: float) -> str:
    """Medians as Markdown, with each single time."""
    lines = [f"| {megabytes} MB | boto3 alone, MB/s | ours, MB/s | ours is | seconds, boto3 alone | seconds, ours |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for way in ("upload", "download"):
        seconds = {who: [item[way] for item in found] for who, found in times.items()}
        speed = {who: megabytes / statistics.median(found) for who, found in seconds.items()}
        each = {who: ", ".join(f"{value:.2f}" for value in found) for who, found in seconds.items()}
        ratio = speed["ours"] / speed["boto3 alone"]
        lines.append(
            f"| {way} | {speed['boto3 alone']:.0f} | {speed['ours']:.0f} | {ratio:.0%} | "
            f"{each['boto3 alone']} | {each['ours']} |"
        )
    return "\n".join([*lines, "", f"sha256 of the file alone: {check_s:.2f} s"])


def endpoint() -> str:
    found = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    if not found:
        raise SystemExit("Set MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a store.")
    return found


def empty(bucket: str) -> None:
    """Delete what was written, and the bucket."""
    from genai_lifecycle.store.s3.session import new_client

    client = new_client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=item["Key"])
    client.delete_bucket(Bucket=bucket)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--megabytes", type=int, default=500, help="size of the model (default: 500)")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    endpoint()
    bucket = f"benchmark-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(measure(Path(folder), bucket, given.rounds, given.megabytes))
        finally:
            empty(bucket)


if __name__ == "__main__":
    main()
