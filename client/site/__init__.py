"""A site: its file, its log, its membership, its checks."""
