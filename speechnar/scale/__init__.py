"""Corpora that take days or many machines: work in units, a journal of what is done, and what does it."""
