"""MLflow's prompt registry, and which prompt an answer is made with."""
