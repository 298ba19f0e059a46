"""Data directories decoded and scored, one module a task."""
