"""The run report: what a run gave each site, in one HTML file that needs nothing else, and in numbers as JSON."""
