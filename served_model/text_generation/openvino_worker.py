"""The OpenVINO engine's own process: token ids and sampling values in, token ids out.

Started as a file (`python openvino_worker.py FD`) by `openvino_engine.py`, because a step of the pipeline holds
the GIL: in a thread it would starve the process that answers HTTP. It imports nothing of ours and neither torch
nor a tokenizer, trusts that what it gets was checked, and ends when the other side of the pipe is closed.

Messages are JSON, one a frame. In: the settings first; then lists of `{"add": job}` and `{"cancel": [ids]}`. Out:
`{"ready": …}` first; then, after every step, `{"events": [[id, [token ids], end or null], …], "begun": [[id, seconds
ago], …], "running": n, "waiting": n, "cache_usage": share}`, where a scored text's end is `{"log_probs": […]}`.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

# With this package at hand OpenVINO reports its import to its maker and writes into the home.
sys.modules["openvino_telemetry"] = None

import openvino  # noqa: E402
import openvino_genai as genai  # noqa: E402

MAX_RUNNING = 64  # jobs in the batch; more wait
RESERVED = 16  # places of the batch that calls of many jobs leave to calls of one, so that these start at once
MAX_BATCHED_TOKENS = 512  # of one step: long prompts are read in pieces between the others' tokens
_MADV_PAGEOUT = 21  # asm-generic/mman-common.h
CACHE_GB = 1  # of keys and values at most; jobs wait when it is full
BLOCK_TOKENS = 32  # of the cache's blocks on a CPU
SCALE_BYTES = 8  # beside each quantized head: its scale and zero point


@dataclass
class Running:
    """A job in the pipeline. The handle is kept: dropping it would end the job."""

    id: int
    group: int
    deadline: float
    prompt_tokens: int
    handle: Any
    is_score: bool
    is_reading: bool = True  # no token of the answer yet
    stopped: bool = False  # an end-of-text token came
    log_probs: list[float] = field(default_factory=list)


def open_pipeline(settings: dict[str, Any]) -> Any:
    """The pipeline over the IR folder that `settings` names."""
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = cache_blocks(settings)
    scheduler.max_num_seqs = MAX_RUNNING
    scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
    scheduler.enable_prefix_caching = settings["prefix_caching"]
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": settings["threads"],
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": settings["kv_cache_precision"],
    }
    return genai.ContinuousBatchingPipeline(settings["ir"], scheduler, "CPU", properties)


def cache_blocks(settings: dict[str, Any]) -> int:
    """What the fullest batch can need, within CACHE_GB.

    The pipeline uses all its blocks in turn, so that every one it is given becomes resident in time.
    """
    model = openvino.Core().read_model(f"{settings['ir']}/openvino_model.xml")
    quantized = settings["kv_cache_precision"] == "u8"
    token_bytes = 0
    for variable in model.get_variables():  # keys or values of a layer: (batch, heads, tokens, head size)
        _, heads, _, head_size = variable.info.data_shape
        values = head_size.get_length()
        token_bytes += heads.get_length() * (values + SCALE_BYTES if quantized else values * 4)
    needed = MAX_RUNNING * (-(-settings["window"] // BLOCK_TOKENS) + 1)
    return min(needed, CACHE_GB * 2**30 // (token_bytes * BLOCK_TOKENS))


class Waiting:
    """The jobs that are not in the batch yet: each group's in their order, the groups in turn."""

    def __init__(self) -> None:
        # group -> id -> job; the first group is the next in turn. A plain dict is slow to give its first item again
        # and again.
        self._groups: OrderedDict[int, OrderedDict[int, dict]] = OrderedDict()
        self._group_of: dict[int, int] = {}  # id -> group

    def __len__(self) -> int:
        return len(self._group_of)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (job for jobs in self._groups.values() for job in jobs.values())

    def groups(self) -> list[int]:
        """Those that have a job waiting, the next in turn first."""
        return list(self._groups)

    def count(self, group: int) -> int:
        """How many jobs of the group wait."""
        return len(self._groups.get(group, ()))

    def add(self, job: dict[str, Any]) -> None:
        self._groups.setdefault(job["group"], OrderedDict())[job["id"]] = job
        self._group_of[job["id"]] = job["group"]

    def next_of(self, group: int) -> dict[str, Any]:
        """Take the group's first job; the group moves behind the others."""
        job = self.remove(next(iter(self._groups[group])))
        if group in self._groups:
            self._groups.move_to_end(group)
        return job

    def remove(self, job_id: int) -> dict[str, Any] | None:
        """Take one job out, if it waits."""
        group = self._group_of.pop(job_id, None)
        if group is None:
            return None
        job = self._groups[group].pop(job_id)
        if not self._groups[group]:
            del self._groups[group]
        return job


class Batch:
    """The jobs under way and those that wait; the groups take turns."""

    def __init__(self, pipeline: Any, eos_ids: list[int]):
        self.pipeline, self.eos_ids = pipeline, set(eos_ids)
        self.waiting = Waiting()
        self.running: dict[int, Running] = {}
        self._next_deadline = float("inf")  # no job's is earlier
        self.events: list[list] = []
        self.begun: dict[int, float] = {}  # job -> when it came in, until it is told
        self.answered = False  # the pipeline has run

    @property
    def is_idle(self) -> bool:
        return not (self.running or self.waiting or self.events)

    def take(self, messages: list[dict[str, Any]]) -> None:
        """Queue jobs, and cancel others wherever they are."""
        for message in messages:
            if "add" in message:
                job = message["add"]
                job["deadline"] = time.monotonic() + job["left_s"]
                self.waiting.add(job)
                self._next_deadline = min(self._next_deadline, job["deadline"])
            else:
                for job_id in message["cancel"]:
                    self._leave(job_id, "cancelled")

    def step(self) -> list[list]:
        """One token for everyone in the batch; returns what happened."""
        self._expire()
        self._admit()
        if self.running and self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            self.answered = True
        for job in list(self.running.values()):
            self._read(job)
        events, self.events = self.events, []
        return events

    def report(self, events: list[list]) -> dict[str, Any]:
        """What is told after a step."""
        now, begun, self.begun = time.monotonic(), self.begun, {}
        # the pipeline's own figure is of its last step
        cache_usage = self.pipeline.get_metrics().cache_usage / 100 if self.running else 0.0
        return {
            "events": events,
            "begun": [[job_id, now - since] for job_id, since in begun.items()],
            "running": len(self.running),
            "waiting": len(self.waiting),
            "cache_usage": cache_usage,
        }

    # --- who may come in ---

    def _admit(self) -> None:
        """Fill the free places, one job of each group in turn.

        Groups of many jobs leave `RESERVED` places free, and wait while a whole step's worth of prompt tokens is
        still to be read: a group of one job is then read within a step or two of its arrival.
        """
        if not self.waiting:
            return
        running = Counter(job.group for job in self.running.values())
        is_many = {
            group: running[group] + self.waiting.count(group) > 1 for group in (*running, *self.waiting.groups())
        }
        held = sum(is_many[job.group] for job in self.running.values())
        unread = sum(job.prompt_tokens for job in self.running.values() if job.is_reading)
        turns = deque(self.waiting.groups())
        while turns and len(self.running) < MAX_RUNNING:
            group = turns.popleft()
            if is_many[group]:
                if held >= MAX_RUNNING - RESERVED or unread >= MAX_BATCHED_TOKENS:
                    continue
                held += 1
            job = self.waiting.next_of(group)
            unread += len(job["ids"])
            self._start(job)
            if self.waiting.count(group):
                turns.append(group)

    def _start(self, job: dict[str, Any]) -> None:
        ids = openvino.Tensor(np.array([job["ids"]], dtype=np.int64))
        try:
            handle = self.pipeline.add_request(job["id"], ids, self._config(job))
        except (RuntimeError, ValueError) as exc:
            self.events.append([job["id"], [], {"error": str(exc).splitlines()[0]}])
            return
        self.begun[job["id"]] = time.monotonic()
        self.running[job["id"]] = Running(
            job["id"], job["group"], job["deadline"], len(job["ids"]), handle, "score" in job
        )

    def _config(self, job: dict) -> Any:
        config = genai.GenerationConfig()
        # A config without an end-of-text token is refused, so a model that has none names one and ignores it.
        config.eos_token_id = min(self.eos_ids, default=0)
        config.stop_token_ids = self.eos_ids or {0}
        config.ignore_eos = not self.eos_ids
        if "score" in job:
            config.max_new_tokens, config.echo, config.logprobs = 0, True, 1
            return config
        config.max_new_tokens = job["max_new_tokens"]
        config.repetition_penalty = job["repetition_penalty"]
        if job["temperature"] > 0:
            config.do_sample, config.temperature = True, job["temperature"]
            config.top_p, config.rng_seed = job["top_p"], job["seed"]
            if job["top_k"] > 0:
                config.top_k = job["top_k"]
        return config

    # --- who leaves ---

    def _expire(self) -> None:
        """End the jobs whose deadline has passed. All are looked at only when the next deadline may have come."""
        now = time.monotonic()
        if now <= self._next_deadline:
            return
        deadlines = {job.id: job.deadline for job in self.running.values()}
        deadlines |= {job["id"]: job["deadline"] for job in self.waiting}
        for job_id in [job_id for job_id, deadline in deadlines.items() if now > deadline]:
            self._leave(job_id, "timeout")
            del deadlines[job_id]
        self._next_deadline = min(deadlines.values(), default=float("inf"))

    def _leave(self, job_id: int, reason: str) -> None:
        """End a job before its time, with the tokens it has; one that has ended already is left alone."""
        if job := self.running.pop(job_id, None):
            self.events.append([job_id, self._new_ids(job), reason])
            job.handle.cancel()  # after reading: nothing can be read of a cancelled job
        elif self.waiting.remove(job_id):
            self.events.append([job_id, [], reason])

    def _read(self, job: Running) -> None:
        if job.is_score:
            self._read_score(job)
            return
        status = job.handle.get_status()  # before reading: what comes after it is read in the next step
        ids = self._new_ids(job)
        job.is_reading = job.is_reading and not ids
        ended = status != genai.GenerationStatus.RUNNING
        if ended:
            del self.running[job.id]
        if ids or ended:
            self.events.append([job.id, ids, self._reason(job, status) if ended else None])

    def _new_ids(self, job: Running) -> list[int]:
        ids: list[int] = []
        while job.handle.can_read():
            for output in job.handle.read().values():
                ids += output.generated_ids
                job.stopped = output.finish_reason == genai.GenerationFinishReason.STOP
        return [token for token in ids if token not in self.eos_ids]

    @staticmethod
    def _reason(job: Running, status: Any) -> str | dict:
        if status == genai.GenerationStatus.IGNORED:
            return {"error": f"The job does not fit into the engine's cache of {CACHE_GB} GB; ask for fewer tokens."}
        return "stop" if job.stopped else "length"

    def _read_score(self, job: Running) -> None:
        """A long text is scored in pieces, which come one by one."""
        status = job.handle.get_status()
        while job.handle.can_read():
            for output in job.handle.read().values():
                job.log_probs += output.generated_log_probs
        if status == genai.GenerationStatus.RUNNING:
            return
        del self.running[job.id]
        self.events.append([job.id, [], {"log_probs": job.log_probs}])


def let_go_of_file(path: Path) -> None:
    """Give back the memory that a mapped file takes; its pages come back from the file if they are read.

    The first answer packs the weights anew for the CPU. What it packed them from is not read again, and is half of
    this process's memory. Linux only; elsewhere the pages stay.
    """
    if not sys.platform.startswith("linux"):
        return
    advise = ctypes.CDLL(None).madvise
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    for start, end in ([int(edge, 16) for edge in edges.split("-")] for edges in mapped):
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)  # only advice: may be refused


def serve(connection: Connection, batch: Batch, weights: Path) -> None:
    """Take messages and step until the other side is gone."""
    packed = False
    while True:
        if not packed and batch.answered and batch.is_idle:
            let_go_of_file(weights)
            packed = True
        # Nothing to do: wait for a message. Else only look whether there is one, and go on.
        while batch.is_idle or connection.poll():
            batch.take(json.loads(connection.recv_bytes()))
            if not batch.is_idle and not connection.poll():
                break
        message = batch.report(batch.step())
        connection.send_bytes(json.dumps(message).encode())


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    try:
        settings = json.loads(connection.recv_bytes())
        pipeline = open_pipeline(settings)
        connection.send_bytes(json.dumps({"ready": openvino.__version__}).encode())
        serve(connection, Batch(pipeline, settings["eos_ids"]), Path(settings["ir"], "openvino_model.bin").resolve())
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # the parent is gone, or is ending


if __name__ == "__main__":
    main()
