"""A HuggingFace checkpoint without its weights: tokenizer and limits, read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What an engine must know of a checkpoint, and what its ids and lengths are checked against."""

    vocabulary: int  # ids go from 0 to vocabulary - 1
    window: int  # tokens, prompt and answer together, that the model can see
    eos_ids: frozenset[int]  # ids that end an answer; may be empty

    @property
    def eos_id(self) -> int | None:
        """The one that joins the turns of a dialogue."""
        return min(self.eos_ids, default=None)


def read_limits(folder: Path) -> Limits:
    """From config.json and, where there is one, generation_config.json, which has the last word on the end."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    eos = config.get("eos_token_id")
    generation = folder / "generation_config.json"
    if generation.exists():
        named = json.loads(generation.read_text("utf-8")).get("eos_token_id")
        eos = eos if named is None else named
    window = config.get("n_positions") or config.get("max_position_embeddings") or 1024
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return Limits(vocabulary=config["vocab_size"], window=window, eos_ids=frozenset(ids))


def load_tokenizer(folder: Path) -> Any:
    """A `tokenizers.Tokenizer`; nothing is downloaded.

    transformers is needed only for folders without a tokenizer.json (older checkpoints have vocab.json and
    merges.txt); the package that `deploy` writes always has one.
    """
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
