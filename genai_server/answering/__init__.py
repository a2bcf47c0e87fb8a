"""From a question to an answer: the model, the queue, the deadline."""
