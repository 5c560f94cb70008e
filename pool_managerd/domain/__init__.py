"""Pure decisions: no await, clock, randomness, logging or I/O; `now` comes in."""
