"""Speech from text, its codecs and vocoders, one paper per file."""
