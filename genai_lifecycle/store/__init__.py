"""The only code that talks to MLflow, its database and its artifact store."""
