"""Text to speech, and recordings with other words."""
