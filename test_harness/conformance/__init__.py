"""One suite that every adapter passes: on stand-ins, on recorded bytes, on real engines."""
