"""Where a site's films are. Each source lists its films and gives their bytes. Import the modules: this loads nothing."""
