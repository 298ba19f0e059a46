"""Layers that know lengths but no task."""
