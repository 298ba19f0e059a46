"""Text to text: whole texts, and texts that grow."""
