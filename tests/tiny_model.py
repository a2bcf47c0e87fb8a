"""Real but tiny HuggingFace models, made in a second without a network: one layer, random weights."""

from __future__ import annotations

import json
from pathlib import Path

SENTENCES = [
    "What is overfitting? Overfitting is when a model learns the training data too closely.",
    "Question: What is MLflow? Answer: MLflow is an open platform for the machine learning life cycle.",
    "You are a teacher. Explain in simple words to a student. You are an expert in AI and machine learning.",
]


def make_gpt2(folder: Path, *, seed: int = 0, positions: int = 256) -> Path:
    """A GPT-2 with a byte-level BPE tokenizer in HuggingFace format, safetensors weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    make_tokenizer(folder)
    torch.manual_seed(seed)
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    model.generation_config.eos_token_id = 0
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(SENTENCES, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token=end, eos_token=end, unk_token=end)
    fast.save_pretrained(folder)


def make_dialogpt(folder: Path) -> Path:
    """The same shape with DialoGPT's mark in config.json."""
    make_gpt2(folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | {"task_specific_params": {"conversational": {"max_length": 1000}}}
    path.write_text(json.dumps(settings))
    return folder


def make_pickled(folder: Path) -> Path:
    """The same checkpoint with pickled weights only, as older DialoGPT revisions have them."""
    import torch
    from transformers import AutoModelForCausalLM

    make_gpt2(folder)
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder
