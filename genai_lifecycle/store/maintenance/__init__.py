"""Keeping a store in order: what is in it, what may be removed, where its artifacts are."""
