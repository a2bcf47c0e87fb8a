"""Artifacts in S3 or MinIO. The only code that touches boto3; MLflow's own artifact repository does the work.

`session.py` configures the client that MLflow uses, `preflight.py` tries the store before a run starts,
`problems.py` says in our words what S3's errors mean.
"""
