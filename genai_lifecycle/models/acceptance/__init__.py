"""Testing a registered version: a probe that runs in a fresh process, and the checks on what it observed."""
