"""Model files: what they hold."""
