"""One paper per file: config, module, loss, inference."""
