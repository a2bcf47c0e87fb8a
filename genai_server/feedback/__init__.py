"""Feedback on answers: a ledger on the disk first, then assessments on MLflow traces."""
