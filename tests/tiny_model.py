"""Real but tiny HuggingFace models, made in a second without a network: one layer, random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SENTENCES = [
    "What is overfitting? Overfitting is when a model learns the training data too closely.",
    "Question: What is MLflow? Answer: MLflow is an open platform for the machine learning life cycle.",
    "You are a teacher. Explain in simple words to a student. You are an expert in AI and machine learning.",
]


COMMIT = "0123456789abcdef0123456789abcdef01234567"  # a commit as the Hub writes one


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


def make_taught_gpt2(folder: Path, lessons: dict[str, str], *, positions: int = 256) -> Path:
    """The same GPT-2, taught to continue each prompt of `lessons` with its text and then to end (half a second)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_gpt2(folder, positions=positions)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()  # no dropout: the same weights every time
    rows = [[*tokenizer(prompt + text)["input_ids"], 0] for prompt, text in lessons.items()]
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, -100)
    steps = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        logits = model(labels.clamp(min=0)).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:])
        steps.zero_grad()
        loss.backward()
        steps.step()
    model.save_pretrained(folder)
    return folder


def lay_out_as_hub(cache, name: str, folder) -> None:
    """models--org--name/{refs/main, snapshots/<commit>/file -> ../../blobs/<hash>}, as huggingface_hub writes it."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs").mkdir()
    for number, path in enumerate(folder.iterdir()):
        shutil.copy(path, repo / "blobs" / f"blob{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob{number}")


# --- taught and converted: what the tests of the served model answer with --------------------------

TEMPLATE = "Question: {{question}}\nAnswer:"
UNICODE = "こんにちは, naïve café 🙂👩‍👩‍👧 bye."
LESSONS = {
    "Say hello.": UNICODE,
    "What is overfitting?": "Overfitting is learning the data too closely.",
    "Count.": "one two three four five six seven eight nine ten",
    "Write two lines.": "first line\nsecond line",
}


def make_lessons_gpt2(folder: Path) -> Path:
    """The GPT-2 that was taught the answers of `LESSONS`, asked through `TEMPLATE`."""
    return make_taught_gpt2(folder, {rendered(question): f" {answer}" for question, answer in LESSONS.items()})


def rendered(question: str) -> str:
    return TEMPLATE.replace("{{question}}", question)


def make_ir(folder: Path, target: Path) -> Path:
    """The checkpoint in `folder`, converted in fp32, with the record that `deploy` writes beside it."""
    from genai_lifecycle.models.conversion import ir

    ir.save(ir.convert(folder), target)
    record = {"converted": True, "precision": "fp32", "reason": "asked for", "figures": {}}
    (target / "conversion.json").write_text(json.dumps(record))
    return target


def open_engine(name: str, folder: Path, ir: Path):
    """The engine of that name over a checkpoint and its converted model."""
    from served_model.text_generation.checkpoint import read_limits
    from served_model.text_generation.openvino_engine import OpenVINOEngine
    from served_model.text_generation.torch_engine import TorchEngine

    if name == "torch":
        return TorchEngine.load_from(folder, 1)
    return OpenVINOEngine(ir, read_limits(folder), 1, "fp32")


def transformers_greedy(folder: Path, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """What transformers' own `generate` answers, without the end token; prompts of one length at a time, unpadded."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    answers: list[list[int]] = [[] for _ in prompts]
    for length in {len(prompt) for prompt in prompts}:
        rows = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[i] for i in rows])
        given = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0
        )
        for i, row in zip(rows, given[:, length:].tolist(), strict=True):
            answers[i] = row[: row.index(0)] if 0 in row else row
    return answers
