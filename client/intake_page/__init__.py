"""The preflight's page and its summary."""
