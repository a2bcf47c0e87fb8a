"""The programs that users would pick instead, each as small as its documentation shows it. Started by `servers.py`."""
