"""The intake: each file of a site is read once, judged alone and beside the others, and listed in a manifest."""
