"""Child processes, the client of a running server, and the commands that start one."""
