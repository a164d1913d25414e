"""Speed, measured in one run against named rivals."""
