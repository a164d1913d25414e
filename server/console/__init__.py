"""What the server's commands share on a terminal."""
