"""Who takes part: the consortium's authority, certificates and registry."""
