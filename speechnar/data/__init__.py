"""Manifests to typed, padded batches."""
