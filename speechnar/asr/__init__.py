"""Speech to text: whole recordings, batches of clips, streams."""
