"""The orchestrator of a model's life: experiment, deploy, test, serve. It is never shipped to production."""
