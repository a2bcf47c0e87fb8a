"""Aliases in MLflow's registries, moved safely. The orchestrator uses it too; it knows no HTTP and no model."""
