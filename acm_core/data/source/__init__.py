"""Where a site's films are: each source lists its films and gives their bytes. Import the modules, not the package."""
