"""A start for other runs: a model made from one folder of public films, with its card."""
