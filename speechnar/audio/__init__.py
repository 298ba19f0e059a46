"""Samples and features; nothing learned."""
