"""Engines that are real processes and no models: they pace, and misbehave by name."""
