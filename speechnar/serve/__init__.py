"""An HTTP server that speaks OpenAI's audio API: transcription, translation, speech, and live captions by WebSocket.

What comes in is bounded in bytes, seconds and time; what is computed runs in threads beside the event loop, so that
the server answers while models work.
"""
