"""The single training loop, which knows only `loss(batch)`."""
