"""Non-autoregressive speech and audio: recognition, translation, synthesis, editing and generation."""
