"""Whether a model looks where a finding lies: on phantom films, of which that is known."""
