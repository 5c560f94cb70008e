"""The decisions: synchronous, without clock, I/O or framework; time comes in as `now`."""
