"""Translators of text, one paper per file."""
