"""Figures, not verdicts: the benchmarks print tables and assert nothing on time."""
