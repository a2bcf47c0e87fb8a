"""How much one request may ask for. The schemas of every family of routes are made from these.

A test holds them equal to what the served model accepts (served_model/text_generation/sampling.py).
"""

MAX_NEW_TOKENS = 1024
MAX_TEMPERATURE = 5
MAX_TOP_K = 1_000_000  # larger than any vocabulary
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.1, 10
SEED_LIMIT = 2**63  # the first that is too large
MAX_STOPS, MAX_STOP_CHARACTERS = 8, 200
MAX_TIMEOUT_S = 3600

# These are the server's alone: the model's own limit is its window.
MAX_TEXT_CHARACTERS = 20_000  # of a question, an earlier turn, a value of a variable, a text to continue
MAX_HISTORY, MAX_MESSAGES = 100, 200  # earlier turns of /ask; messages of a chat
MAX_VARIABLES = 50
MAX_BATCH, MAX_TEXTS = 256, 64  # questions of /ask/batch; texts of /v1/completions
