"""Models that score what others make."""
