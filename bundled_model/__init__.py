"""The bundled GPT-2: its corpus, its training recipe and its measurement. Not needed to use the model."""
