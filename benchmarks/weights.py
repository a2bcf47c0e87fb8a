"""Models to measure with: GPT-2-small's shape with random weights, made on the spot, and the bundled one.

Neither has an end-of-text token, so that every answer has exactly as many tokens as were asked for, in every peer.
Speed does not depend on what the weights are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
BUNDLED = REPO / "bundled_model" / "gpt2-mini"
VOCABULARY = 50_257


def make_gpt2_small(folder: Path) -> Path:
    """124 million parameters: 12 layers, 768 wide, 50,257 tokens; about 500 MB."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    """The bundled model's byte-level BPE, filled up to GPT-2's vocabulary so that every id is a text."""
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    for number in range(len(vocabulary), VOCABULARY):
        vocabulary[f"Ġw{number}"] = number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    _write_settings(folder, 1024)


def _write_settings(folder: Path, window: int) -> None:
    """Of the tokenizer: it names no end of text either."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": window}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def make_endless_bundled(folder: Path) -> Path:
    """The bundled model without an end-of-text token, so that its answers too are as long as was asked for."""
    shutil.copytree(BUNDLED, folder, dirs_exist_ok=True)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(settings | {"bos_token_id": None, "eos_token_id": None}), "utf-8")
    _write_settings(folder, 256)
    return folder


def package(model: Path, folder: Path, precision: str) -> Path:
    """The model as our PyFunc, as `deploy` packages it; returns the folder to serve."""
    from genai_lifecycle.evaluation.cases import Case
    from genai_lifecycle.models import packaging
    from genai_lifecycle.models.conversion.precision import Trial, convert_checkpoint
    from genai_lifecycle.models.generation import greedy_answers, load_converted, load_text_model
    from genai_lifecycle.models.source import ModelSource
    from genai_lifecycle.prompts.templates import TEMPLATES
    from genai_lifecycle.store.prompt_registry import PromptRef

    source = ModelSource("benchmark", "folder", str(model), None, "plain", "")
    prompt = PromptRef("qa", 1, TEMPLATES["simple"])
    questions = ["What is MLflow?", "What is overfitting?"]
    packaging.stage(folder / "staged", source, prompt)
    expected = greedy_answers(load_text_model(str(model), "plain"), prompt.template, questions, 32)
    cases = [Case(question, "An answer.") for question in questions]
    trial = Trial("plain", prompt.template, questions, [a.token_ids for a in expected], cases, 32)
    ir = folder / "staged" / "ir"
    convert_checkpoint(folder / "staged" / "model", ir, trial, precision)
    given = greedy_answers(load_converted(model, ir, "plain", precision), prompt.template, questions, 32)
    golden = [
        {"question": question, "answer": a.answer, "token_ids": a.token_ids, "max_new_tokens": 32}
        for question, a in zip(questions, given, strict=True)
    ]
    packaging.write_golden(folder / "staged", golden)
    packaging.save_model(folder / "staged", folder / "package", engine="openvino", max_new_tokens=96)
    return folder / "package"
