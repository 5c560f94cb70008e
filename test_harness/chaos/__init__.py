"""Faults on purpose: each promise of `.specs/faults.md`, put to the test on real daemons."""
