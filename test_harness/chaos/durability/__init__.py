"""Faults of processes and disks: what was accepted is kept, whatever dies, fills or locks."""
