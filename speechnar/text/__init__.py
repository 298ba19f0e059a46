"""Strings, token ids and transcripts."""
