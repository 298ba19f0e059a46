"""Plain numbers; no torch modules."""
