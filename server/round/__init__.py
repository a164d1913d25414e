"""A run: its rounds, its state, and the files that it leaves."""
