"""Music and sound from text."""
