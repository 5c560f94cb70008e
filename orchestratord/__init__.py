"""The daemon that owns tasks, the queue, placement and token streams."""
