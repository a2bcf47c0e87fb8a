"""Cases, scores and statistics. Knows no MLflow run and loads no model."""
