"""A Triton server's text model without weights: written here, run by its Python backend."""
