"""Loads a registered version in a fresh process and writes down what it does. Decides nothing.

Run as a file, outside the checkout and with `python -I`, so that none of our packages can be imported by
accident: `probe.py REQUEST.json OBSERVED.json`. The checks on the observations are in `checks.py`.
"""

import hashlib
import json
import os
import sys
import time

import mlflow
import pandas as pd


def main(request_path: str, observed_path: str) -> None:
    """Read the request, observe, and write the observations to a temporary name that is then renamed."""
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    observed = observe(request)
    with open(f"{observed_path}.part", "w", encoding="utf-8") as file:
        json.dump(observed, file)
    os.replace(f"{observed_path}.part", observed_path)


def observe(request: dict) -> dict:
    """Load the model and put every kind of question to it."""
    started = time.monotonic()
    model = mlflow.pyfunc.load_model(request["model_uri"], dst_path=request["download_dir"])
    load_s = time.monotonic() - started
    packaged = model.unwrap_python_model().model
    golden = packaged.golden
    question = golden[0]["question"]
    started = time.monotonic()
    observed = {
        "load_s": load_s,
        "weights_sha256": weights_sha256(find(request["download_dir"], "config.json")),
        "engine": packaged.describe(),
        "conversion": read_json(find(request["download_dir"], "conversion.json"), "conversion.json"),
        "forms": {name: attempt(model, form) for name, form in forms(question).items()},
        "refused": {name: attempt(model, form) for name, form in bad_forms().items()},
        "params": {name: attempt(model, question, params) for name, params in params_tried().items()},
        "bad_params": attempt(model, question, {"temperature": -1.0}),
        "stream": stream(model, question),
        "golden": [replay(model, item) for item in golden],
        "cases": model.predict(request["questions"], params={"timeout_s": 3600.0}),
    }
    return observed | {"compute_s": time.monotonic() - started}


def find(folder: str, name: str) -> str:
    """The folder, somewhere below `folder`, that has a file of this name."""
    return next(path for path, _, files in os.walk(folder) if name in files)


def read_json(folder: str, name: str) -> dict:
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return json.load(file)


def weights_sha256(folder: str) -> str:
    """One hash over all safetensors files, in the order of their names, as the version's tag has it."""
    digest = hashlib.sha256()
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".safetensors")):
        with open(os.path.join(folder, name), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def forms(question: str) -> dict:
    """Every accepted form of input, all asking the same question."""
    return {
        "dataframe": pd.DataFrame({"question": [question]}),
        "dict": {"question": question},
        "dict of list": {"question": [question]},
        "list of str": [question],
        "list of dict": [{"question": question}],
        "string": question,
    }


def bad_forms() -> dict:
    """Forms that must be refused with a clear message."""
    return {
        "no question column": pd.DataFrame({"text": ["x"]}),
        "empty question": "  ",
        "number": {"question": 5},
    }


def params_tried() -> dict:
    """Parameters whose effect can be seen from outside."""
    sampled = {"temperature": 1.5, "seed": 7, "max_new_tokens": 16}
    return {"short": {"max_new_tokens": 3}, "sampled": sampled, "sampled again": sampled}


def attempt(model, model_input, params=None) -> dict:
    """The predictions, or the error code and message of a refusal."""
    try:
        return {"predictions": model.predict(model_input, params=params)}
    except mlflow.MlflowException as exc:
        return {"error_code": exc.error_code, "message": str(exc)}


def stream(model, question: str) -> dict:
    """The pieces of a streamed answer and its last event."""
    events = list(model.predict_stream({"question": question}))
    return {"text": "".join(event["delta"] for event in events), "last": events[-1], "events": len(events)}


def replay(model, item: dict) -> dict:
    """Ask one golden question alone, greedily, and time it."""
    started = time.monotonic()
    answer = model.predict(item["question"], params={"max_new_tokens": item["max_new_tokens"]})[0]
    return {"expected": item, "answer": answer, "seconds": time.monotonic() - started}


if __name__ == "__main__":
    main(*sys.argv[1:])
