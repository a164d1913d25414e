"""What a site does with a task, what it keeps, and what leaves."""
