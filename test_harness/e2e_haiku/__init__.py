"""A haiku that nobody could have written before it was asked for."""
