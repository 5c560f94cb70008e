"""Faults of event streams: readers that misbehave, engines that lie, connections that break."""
