"""What the server needs of its process: logs, metrics, threads, memory, folders."""
