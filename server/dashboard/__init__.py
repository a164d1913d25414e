"""A page that shows a run while it goes on: on this machine only, to look at only."""
