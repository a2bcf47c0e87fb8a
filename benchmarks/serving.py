"""Our server beside what users would pick instead, on the same weights, in one run: `python benchmarks/serving.py`.

Prints a Markdown table of every peer at every number of clients with its ratio to ours, and writes the figures as JSON
and a plot into `--out`. Absolute figures move from day to day: trust ratios within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import servers
from load import Seen, first_tokens, load
from questions import QUESTIONS
from weights import make_endless_bundled, make_gpt2_small, package

from served_model.text_generation.openvino_engine import worker_environment

REPO = Path(__file__).resolve().parents[1]
CLIENTS = (1, 8, 32, 64)
PEERS_MOST = 32  # clients of the slow peers: with more they only lose more requests
SLOW = ("naive", "litserve", "transformers-serve", "raw-transformers")
ROUNDS = 4  # questions for each client, at least
LEAST_REQUESTS = 12
LIMIT_S = 45.0  # of one load; slow peers are stopped there and counted as far as they came
OURS = "our server"
MODELS = {"gpt2-small": make_gpt2_small, "bundled": make_endless_bundled}
COLUMNS = ("peer", "clients", "tokens/s", "ours is", "failed", "p50 s", "p99 s", "first token p50 s",
           "first token p99 s",
           "health p99 ms", "ready s", "MiB at rest")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One peer at one number of clients."""

    peer: str
    clients: int
    tokens_per_second: float
    answers: int
    failed: int
    p50_s: float
    p99_s: float
    first_p50_s: float  # to the first piece of a stream; NaN where the peer has none
    first_p99_s: float
    health_p99_s: float
    ready_s: float
    rest_mib: float  # memory when ready, before the first question
    loaded_mib: float  # after this load


def measure(peer: servers.Peer, clients: Sequence[int], log: Path) -> Iterator[Row]:
    """Every load in turn on one running server, after a warm-up."""
    with servers.running(peer, log) as server:
        rest_mib = server.memory_mib()
        api = peer.api(server.base)
        asyncio.run(load(api, QUESTIONS, 2, 4, LIMIT_S))
        for count in clients:
            requests = max(LEAST_REQUESTS, ROUNDS * count)
            seen = asyncio.run(load(api, QUESTIONS, count, requests, LIMIT_S))
            first_s = asyncio.run(first_tokens(api, QUESTIONS, count, max(LEAST_REQUESTS, 2 * count)))
            yield _row(peer.name, seen, first_s, server.ready_s, rest_mib, server.memory_mib())


def _row(name: str, seen: Seen, first_s: Sequence[float], ready_s: float, rest_mib: float, loaded_mib: float) -> Row:
    return Row(
        peer=name,
        clients=seen.clients,
        tokens_per_second=seen.tokens_per_second,
        answers=len(seen.answer_s),
        failed=seen.failed,
        p50_s=seen.percentile(0.5),
        p99_s=seen.percentile(0.99),
        first_p50_s=seen.percentile(0.5, first_s),
        first_p99_s=seen.percentile(0.99, first_s),
        health_p99_s=seen.percentile(0.99, seen.health_s),
        ready_s=ready_s,
        rest_mib=rest_mib,
        loaded_mib=loaded_mib,
    )


def measure_raw(name: str, engine: str, model: Path, clients: Sequence[int]) -> Iterator[Row]:
    """The engine alone, each load in a fresh process."""
    nan = float("nan")
    for count in clients:
        requests = max(LEAST_REQUESTS, ROUNDS * count)
        command = [sys.executable, str(REPO / "benchmarks" / "raw.py"), engine, str(model), str(count), str(requests)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=worker_environment())
        speed = json.loads(done.stdout.splitlines()[-1])["tokens_per_second"]
        yield Row(name, count, speed, requests, 0, *[nan] * 8)


# --- output ---------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Markdown; the ratio says how many times as fast our server is at the same number of clients."""
    ours = {row.clients: row.tokens_per_second for row in rows if row.peer == OURS}
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        ratio = f"{ours[row.clients] / row.tokens_per_second:.2f} ×" if row.tokens_per_second else "–"
        failed = f"{row.failed} of {row.failed + row.answers}"
        cells = [
            row.peer, str(row.clients), _n(row.tokens_per_second, 0), ratio, failed,
            _n(row.p50_s, 2), _n(row.p99_s, 2), _n(row.first_p50_s, 2), _n(row.first_p99_s, 2),
            _n(1000 * row.health_p99_s, 0), _n(row.ready_s, 1), _n(row.rest_mib, 0),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _n(value: float, digits: int) -> str:
    return "–" if value != value else f"{value:.{digits}f}"


def plot(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name in dict.fromkeys(row.peer for row in rows):
        points = [(row.clients, row.tokens_per_second) for row in rows if row.peer == name]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="clients", ylabel="tokens per second")
    axes.set_xticks(CLIENTS, [str(count) for count in CLIENTS])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# --- command line ---------------------------------------------------------------------------------


def peers_of(model: Path, ours: Path, work: Path) -> Mapping[str, object]:
    """Everything that can be measured, by the name that `--only` takes."""
    return {
        "ours": servers.our_server(ours),
        "ours-observed": servers.our_server_observed(ours, work),
        "ours-mlflow": servers.our_model_under_mlflow(ours),
        "naive": servers.naive_under_mlflow(model, work / "naive"),
        "litserve": servers.litserve(model),
        "transformers-serve": servers.transformers_serve(model),
        "raw-openvino": ("raw OpenVINO pipeline", "openvino", ours),
        "raw-transformers": ("raw transformers generate", "transformers", model),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(MODELS), default="gpt2-small")
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="of our weights")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--only", nargs="+", metavar="PEER", help="ours, ours-mlflow, naive, litserve, …")
    parser.add_argument("--work", type=Path, help="folder for the weights, kept for the next run")
    parser.add_argument("--out", type=Path, default=REPO / "local_staging" / "benchmarks")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(_all_rows(given, given.work or Path(temporary)))
    (given.out / "serving.json").write_text(json.dumps([asdict(row) for row in rows], indent=2))
    plot(rows, given.out / "serving.png")
    print(
        f"\n{os.cpu_count()} cores, {given.model}, {given.precision} weights of ours, {servers.NEW_TOKENS} new tokens\n"
    )
    print(table(rows))
    return 0


def _all_rows(given: argparse.Namespace, work: Path) -> Iterator[Row]:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{work / 'mlflow.db'}"
    model = _made(work / given.model, MODELS[given.model])
    ours = _made(work / f"ours-{given.model}-{given.precision}", lambda folder: package(model, folder, given.precision))
    with tempfile.TemporaryDirectory() as scratch:
        for name, peer in peers_of(model, ours / "package", Path(scratch)).items():
            if given.only and name not in given.only:
                continue
            clients = [count for count in given.clients if count <= PEERS_MOST or name not in SLOW]
            log = work / f"{name}.log"
            found = measure_raw(*peer, clients) if isinstance(peer, tuple) else measure(peer, clients, log)
            for row in found:
                print(f"{row.peer}, {row.clients} clients: {row.tokens_per_second:.0f} tokens/s, {row.failed} failed")
                sys.stdout.flush()
                yield row


def _made(folder: Path, make) -> Path:
    if not folder.exists():
        folder.mkdir(parents=True)
        make(folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
