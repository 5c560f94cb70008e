"""What survives a crash: one SQLite database, one writing connection."""
