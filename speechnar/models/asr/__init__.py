"""Recognisers, one paper per file."""
