"""Prompt templates, MLflow's prompt registry, and the comparison of templates."""
