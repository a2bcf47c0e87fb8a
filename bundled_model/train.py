"""Trains the bundled GPT-2 from nothing: `python bundled_model/train.py`. The whole recipe is in this file.

Three parts. In the first the answers are learned, in every format that is served. In the second most rows are a
question in the shortest formats and the first words of its answer, which say whether the question was understood:
three times as many questions an hour, and most of them with words lost, mixed or moved. In the third, a short one,
more of them are questions that must be declined.

Tokenizer, model, batches, optimisation, checkpoints. What is asked and answered comes from `dataset.py`; how
prompts are written comes from the served templates, so the model learns exactly what it is asked later.
Deterministic for a seed, a device and a number of threads; `--resume` goes on where a run was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

if __name__ == "__main__":  # run as a file: make the packages of the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundled_model.dataset import Corpus, Example, Mix, draw, held_out, load_corpus
from genai_lifecycle.prompts.templates import TEMPLATES

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
END, END_ID = "<|endoftext|>", 0
PAD_LABEL = -100  # cross_entropy's ignore_index
CHECKPOINT = "checkpoint.pt"
SIMPLE = TEMPLATES["simple"]
# Matrix products are compiled anew for every shape that was not seen before: few shapes train twice as fast.
LENGTH_STEP, TOKEN_STEP = 16, 256
POOL = 16  # batches drawn together and sorted by length, so that little is padded


@dataclass(frozen=True)
class Part:
    """A part of the training, with an optimiser of its own that starts from the running mean of the part before."""

    steps: int
    batch: int  # rows a step
    learning_rate: float  # peak; cosine down to a twentieth
    warmup: int  # steps
    mix: Mix = Mix()
    short_share: float = 0.0  # of the rows
    short_mix: Mix = Mix()
    short_answer: int = 8  # tokens of a short row's answer


ANSWERS = Part(steps=3600, batch=48, learning_rate=2e-3, warmup=200)
QUESTIONS = Part(
    steps=3600, batch=96, learning_rate=7e-4, warmup=50, short_share=0.85,
    mix=Mix(known=0.55, unknown=0.19, smalltalk=0.03, dialogues=0.23, bags=0.3),
    short_mix=Mix(known=0.72, unknown=0.24, smalltalk=0.04, dialogues=0.0, framed=0.2, bags=0.6),
)  # fmt: skip

# A model that has seen so many odd questions with an answer takes too much for its own field.
BORDERS = replace(
    QUESTIONS, steps=700, learning_rate=4e-4, mix=replace(QUESTIONS.mix, bags=0.1),
    short_mix=Mix(known=0.48, unknown=0.48, smalltalk=0.04, dialogues=0.0, framed=0.27, bags=0.3),
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Every number of the training but the parts'. Sizes in tokens."""

    seed: int = 0
    parts: tuple[Part, ...] = (ANSWERS, QUESTIONS, BORDERS)
    vocabulary: int = 4096
    positions: int = 256
    layers: int = 4
    width: int = 256
    heads: int = 4
    dropout: float = 0.1  # of the embeddings; the noise in the questions does the rest
    weight_decay: float = 0.05
    ema_decay: float = 0.999  # the saved weights are a running mean of the last thousand steps or so
    template_share: float = 0.85  # rows in one of the prompt templates; the rest are bare turns
    template_in_turn_share: float = 0.15  # of the templated rows, as many are a turn of the dialogue format
    checkpoint_every: int = 500

    @property
    def steps(self) -> int:
        return sum(part.steps for part in self.parts)

    def part_at(self, step: int) -> tuple[Part, int]:
        """The part that a step belongs to, and the step's number in it."""
        for part in self.parts[:-1]:
            if step < part.steps:
                return part, step
            step -= part.steps
        return self.parts[-1], step


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and of its answer; the answer ends with the end-of-text token."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


# --- tokenizer ------------------------------------------------------------------------------------


def train_tokenizer(corpus: Corpus, vocabulary: int) -> ByteLevelBPETokenizer:
    """Byte-level BPE over answers and train phrasings (also in lower case) and the templates."""
    texts = [entry.answer for entry in corpus.entries for _ in range(3)]
    texts += [turn.answer for dialogue in corpus.dialogues for turn in dialogue.turns]
    for entry in corpus.entries:
        asked = [*entry.questions["train"], *entry.names["train"]]
        texts += [*asked, *(text.lower() for text in asked)]
    texts += [template for template in TEMPLATES.values() for _ in range(20)]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=vocabulary, min_frequency=2, special_tokens=[END], show_progress=False
    )
    return tokenizer


# --- rows and batches -----------------------------------------------------------------------------


def encode(example: Example, tokenizer: ByteLevelBPETokenizer, rng: random.Random, recipe: Recipe) -> Row:
    """An example in one of the served formats: a template, a template as a dialogue turn, or bare turns."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text).ids

    if example.history or rng.random() >= recipe.template_share:
        turns = (*example.history, example.question)
        return Row([t for turn in turns for t in (*ids(turn), END_ID)], [*ids(example.answer), END_ID])
    text = rng.choice(list(TEMPLATES.values())).replace("{{question}}", example.question)
    if rng.random() < recipe.template_in_turn_share:
        return Row([*ids(text), END_ID], [*ids(example.answer), END_ID])
    return Row(ids(text), [*ids(f" {example.answer}"), END_ID])


def encode_short(example: Example, tokenizer: ByteLevelBPETokenizer, rng: random.Random, part: Part) -> Row:
    """The question in the simple template or as a bare turn, and the first tokens of its answer."""
    templated = rng.random() < 0.7
    text = SIMPLE.replace("{{question}}", example.question) if templated else example.question
    answer = [*tokenizer.encode(f" {example.answer}" if templated else example.answer).ids, END_ID]
    return Row([*tokenizer.encode(text).ids, *([] if templated else [END_ID])], answer[: part.short_answer])


def draw_row(corpus: Corpus, tokenizer, rng: random.Random, recipe: Recipe, part: Part) -> Row:
    if part.short_share and rng.random() < part.short_share:
        return encode_short(draw(corpus, rng, part.short_mix), tokenizer, rng, part)
    return encode(draw(corpus, rng, part.mix), tokenizer, rng, recipe)


def draw_pool(corpus: Corpus, tokenizer, rng: random.Random, recipe: Recipe, part: Part) -> list[list[Row]]:
    """Batches of rows of like length, in random order."""
    rows = [draw_row(corpus, tokenizer, rng, recipe, part) for _ in range(part.batch * POOL)]
    rows = sorted((row for row in rows if len(row) <= recipe.positions), key=len)
    pool = [rows[i : i + part.batch] for i in range(0, len(rows), part.batch)]
    rng.shuffle(pool)
    return pool


def collate(rows: Sequence[Row], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, both (rows, length); the labels are the answer's tokens, elsewhere PAD_LABEL."""
    longest = rounded_up(max(map(len, rows)), LENGTH_STEP)
    ids = torch.full((len(rows), longest), END_ID, dtype=torch.long)
    labels = torch.full_like(ids, PAD_LABEL)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.prompt + row.answer)
        labels[i, len(row.prompt) : len(row)] = torch.tensor(row.answer)
    return ids.to(device), labels.to(device)


# --- model and one step ---------------------------------------------------------------------------


def new_model(recipe: Recipe, vocabulary: int) -> GPT2LMHeadModel:
    # The fused form of GPT-2's own activation, and no dropout inside: together half as fast again on a CPU.
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary, n_positions=recipe.positions, n_embd=recipe.width, n_layer=recipe.layers,
            n_head=recipe.heads, embd_pdrop=recipe.dropout, resid_pdrop=0.0, attn_pdrop=0.0,
            activation_function="gelu_pytorch_tanh", bos_token_id=END_ID, eos_token_id=END_ID,
        )
    )  # fmt: skip


def answer_loss(model: GPT2LMHeadModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the answer tokens. Padding is at the right, where no answer token looks."""
    # bfloat16 is half as fast again on CPUs that have it, and as good here.
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        hidden = model.transformer(ids).last_hidden_state[:, :-1].flatten(0, 1)  # (rows * (length - 1), width)
        wanted = labels[:, 1:].flatten()
        places = (wanted != PAD_LABEL).nonzero()[:, 0]
        # Filled up with places that do not count, to one of a few sizes: see LENGTH_STEP.
        other = (wanted == PAD_LABEL).nonzero()[: rounded_up(len(places), TOKEN_STEP) - len(places), 0]
        places = torch.cat([places, other])
        logits = model.lm_head(hidden[places])  # (answer tokens, vocabulary): the prompt's logits are not needed
    return cross_entropy(logits.float(), wanted[places], ignore_index=PAD_LABEL)


def rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


def learning_rate(step: int, part: Part) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak, over the steps of a part."""
    if step < part.warmup:
        return part.learning_rate * (step + 1) / part.warmup
    done = (step - part.warmup) / max(1, part.steps - part.warmup)
    return part.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


class Training:
    """A run under way: model, running mean of its weights, optimiser, random state and the step it is at."""

    def __init__(self, corpus: Corpus, tokenizer, recipe: Recipe, device: str):
        torch.manual_seed(recipe.seed)
        self.corpus, self.tokenizer, self.recipe, self.device = corpus, tokenizer, recipe, device
        self.rng = random.Random(recipe.seed)
        self.model = new_model(recipe, tokenizer.get_vocab_size()).to(device)
        self.mean = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.step = 0
        self._begin_part()

    def _begin_part(self) -> None:
        part, at = self.recipe.part_at(self.step)
        if at == 0 and self.step:
            self.model.load_state_dict(self.mean)
        # Over short rows the plain attention is a quarter faster.
        self.model.set_attn_implementation("eager" if part.short_share else "sdpa")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=part.learning_rate, betas=(0.9, 0.98), weight_decay=self.recipe.weight_decay
        )
        self.pool: list[list[Row]] = []

    def advance(self) -> float:
        """One optimiser step; returns its loss."""
        part, at = self.recipe.part_at(self.step)
        if at == 0:
            self._begin_part()
        if not self.pool:
            self.pool = draw_pool(self.corpus, self.tokenizer, self.rng, self.recipe, part)
        ids, labels = collate(self.pool.pop(), self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(at, part)
        self.model.train()
        loss = answer_loss(self.model, ids, labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._average()
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        # A young mean follows the weights closely, so that a short run is not an average of noise.
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.mean[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def validation_loss(self, rows: Sequence[Row]) -> float:
        """Mean loss of the averaged weights on rows of held-out phrasings."""
        self.model.eval()
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.mean)
        chunks = [rows[i : i + 64] for i in range(0, len(rows), 64)]
        losses = [float(answer_loss(self.model, *collate(chunk, self.device))) * len(chunk) for chunk in chunks]
        self.model.load_state_dict(own)
        return sum(losses) / len(rows)

    def save(self, path: Path) -> None:
        """Write a checkpoint to a temporary name and rename it."""
        state = {
            "recipe": asdict(self.recipe), "step": self.step, "model": self.model.state_dict(), "mean": self.mean,
            "optimizer": self.optimizer.state_dict(), "torch_rng": torch.get_rng_state(),
            "rng": json.dumps(self.rng.getstate()), "pool": [[asdict(row) for row in rows] for rows in self.pool],
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe; raises ValueError for another one."""
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} is of another recipe; remove it, or start with the same options.")
        self.step = state["step"]
        self._begin_part()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean = state["mean"]
        torch.set_rng_state(state["torch_rng"])
        version, numbers, gauss = json.loads(state["rng"])
        self.rng.setstate((version, tuple(numbers), gauss))
        self.pool = [[Row(**row) for row in rows] for rows in state["pool"]]


# --- the run --------------------------------------------------------------------------------------


def train(training: Training, work: Path, validation: Sequence[Row]) -> None:
    """Run to the last step with checkpoints on the way; says after 20 steps how long it will take."""
    started, first = time.monotonic(), training.step
    total = training.recipe.steps
    loss = float("nan")
    while training.step < total:
        loss = training.advance()
        done = training.step - first
        if done == 20 or training.step % 250 == 0:
            left_s = (time.monotonic() - started) / done * (total - training.step)
            log.info("step %d of %d, loss %.3f, about %.0f min left", training.step, total, loss, left_s / 60)
        if training.step % training.recipe.checkpoint_every == 0:
            log.info("  validation loss %.3f", training.validation_loss(validation))
            training.save(work / CHECKPOINT)


def export(training: Training, folder: Path) -> None:
    """Write the averaged weights and the tokenizer in HuggingFace format, to a temporary name, then rename."""
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    model = new_model(training.recipe, training.tokenizer.get_vocab_size())
    model.load_state_dict(training.mean)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = END_ID
    model.generation_config.max_new_tokens = 96
    model.save_pretrained(temporary)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=training.tokenizer._tokenizer, bos_token=END, eos_token=END, unk_token=END, pad_token=END,
        model_max_length=training.recipe.positions, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def smaller(corpus: Corpus, fraction: float) -> Corpus:
    """A share of the concepts, for trying a recipe; everything held out stays held out."""
    known = corpus.of("known")
    kept = {entry.id for entry in known[:: max(1, round(1 / fraction))]}
    entries = tuple(entry for entry in corpus.entries if entry.group != "known" or entry.id in kept)
    dialogues = tuple(dialogue for dialogue in corpus.dialogues if dialogue.entry.id in kept)
    return Corpus(entries, dialogues, corpus.held_out)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled GPT-2.")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    for name, part in (("steps", ANSWERS), ("question-steps", QUESTIONS)):
        parser.add_argument(f"--{name}", type=int, default=part.steps, help=f"default: {part.steps}")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the concepts, to try a recipe")
    parser.add_argument("--out", type=Path, default=HERE / "gpt2-mini", help="folder to write")
    parser.add_argument("--work", type=Path, default=HERE / "training", help="folder of the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in (("layers", Recipe.layers), ("width", Recipe.width), ("vocabulary", Recipe.vocabulary)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = parse(argv)
    # Gradients of what is known by heart become subnormal numbers, on which a CPU is a hundred times slower.
    torch.set_flush_denormal(True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parts = (replace(ANSWERS, steps=given.steps), replace(QUESTIONS, steps=given.question_steps), BORDERS)
    recipe = Recipe(seed=given.seed, parts=parts, layers=given.layers, width=given.width, vocabulary=given.vocabulary)
    corpus = load_corpus()
    corpus = smaller(corpus, given.fraction) if given.fraction < 1 else corpus
    tokenizer = train_tokenizer(corpus, recipe.vocabulary)
    training = Training(corpus, tokenizer, recipe, given.device)
    if given.resume and (given.work / CHECKPOINT).exists():
        training.restore(given.work / CHECKPOINT)
    size = sum(p.numel() for p in training.model.parameters())
    log.info(
        "%d answers, %d dialogues, %.1f million parameters", len(corpus.entries), len(corpus.dialogues), size / 1e6
    )
    rng = random.Random(recipe.seed)
    validation = [encode(example, tokenizer, rng, recipe) for example in held_out(corpus, "validation")]
    started = time.monotonic()
    train(training, given.work, validation)
    log.info(
        "done in %.0f min, validation loss %.3f",
        (time.monotonic() - started) / 60,
        training.validation_loss(validation),
    )
    export(training, given.out)


if __name__ == "__main__":
    main()
