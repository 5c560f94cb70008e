"""How orchestratord reaches the other daemon."""
