"""The only code that talks to MLflow: its errors become ours here."""
