"""A model in a site's hands: predictions, and maps of where it looked."""
