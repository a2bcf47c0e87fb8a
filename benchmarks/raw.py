"""Engines without a server: the most that HTTP could keep. `python benchmarks/raw.py ENGINE MODEL CLIENTS` prints JSON.

Run in a process of its own by `serving.py`, so that no engine inherits another one's threads or memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from questions import QUESTIONS
from servers import NEW_TOKENS, TEMPLATE


def openvino(model: Path, clients: int, requests: int) -> float:
    """Tokens a second of the bare pipeline: a new request whenever one has ended. `model` is our package."""
    from tokenizers import Tokenizer

    from served_model.text_generation import openvino_worker as worker

    tokenizer = Tokenizer.from_file(str(model / "artifacts" / "model" / "tokenizer.json"))
    prompts = [tokenizer.encode(TEMPLATE.replace("{question}", q)).ids for q in QUESTIONS]
    precision = json.loads((model / "artifacts" / "ir" / "conversion.json").read_text())["precision"]
    settings = {
        "ir": str(model / "artifacts" / "ir"),
        "threads": 2,
        "window": json.loads((model / "artifacts" / "model" / "config.json").read_text())["n_positions"],
        "kv_cache_precision": "f32" if precision == "fp32" else "u8",
        "prefix_caching": False,
    }
    batch = worker.Batch(worker.open_pipeline(settings), [])
    job = {"group": 0, "left_s": 600, "max_new_tokens": NEW_TOKENS, "temperature": 0, "repetition_penalty": 1.0}

    def run(count: int, at_once: int) -> float:
        handed_in = done = tokens = 0
        started = time.monotonic()
        while done < count:
            while handed_in < min(count, done + at_once):
                number = run.number = run.number + 1
                ids = prompts[number % len(prompts)]
                batch.take({"add": {**job, "id": number, "group": number, "ids": ids}})
                handed_in += 1
            for _, ids, end in batch.step():
                tokens += len(ids)
                done += end is not None
        return tokens / (time.monotonic() - started)

    run.number = 0
    run(min(clients, 8), clients)  # warm-up
    return run(requests, clients)


def transformers(model: Path, clients: int, requests: int) -> float:
    """Tokens a second of transformers' `generate` on padded batches of as many rows as there are clients."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    tokenizer.pad_token_id = 0
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    texts = [TEMPLATE.replace("{question}", QUESTIONS[i % len(QUESTIONS)]) for i in range(clients)]
    rows = tokenizer(texts, return_tensors="pt", padding=True)

    def run(new_tokens: int) -> None:
        with torch.inference_mode():
            network.generate(**rows, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)

    run(4)  # warm-up
    rounds = max(1, requests // clients)
    started = time.monotonic()
    for _ in range(rounds):
        run(NEW_TOKENS)
    return rounds * clients * NEW_TOKENS / (time.monotonic() - started)


if __name__ == "__main__":
    engine, folder, at_once, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    measure = {"openvino": openvino, "transformers": transformers}[engine]
    print(json.dumps({"tokens_per_second": measure(folder, at_once, count)}))
