"""A site's films and labels: reading, splitting, preparing, batching. Import the modules: this loads nothing."""
