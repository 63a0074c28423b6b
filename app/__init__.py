"""Chatterbox TTS Server: speech in any cloned voice, streamed while it is being generated."""

__version__ = "0.1.0"
