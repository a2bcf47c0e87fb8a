"""What is frozen into the MLflow artifact. Imports none of our other packages."""
