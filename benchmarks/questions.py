"""The questions that every peer is asked, in this order: test phrasings of the bundled corpus, never trained on."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundled_model.dataset import held_out, load_corpus

QUESTIONS = [example.question for example in held_out(load_corpus(), "test") if example.group == "known"][::7]
