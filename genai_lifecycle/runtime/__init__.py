"""What every stage needs of this machine: locks, scratch folders, atomic writes, progress, Ctrl-C. No MLflow."""
