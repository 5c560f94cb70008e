"""Proofs that equal requests give equal bytes: made over the API, checked from a file alone."""
