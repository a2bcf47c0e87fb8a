"""Traces of a share of the requests, written to MLflow by a process of its own."""
