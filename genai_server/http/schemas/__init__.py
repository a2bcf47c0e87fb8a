"""Requests and responses. Swagger and the checks of every request come from here; no logic."""
