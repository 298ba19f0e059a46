"""Generators of music and sound, and their codec, one paper per file."""
