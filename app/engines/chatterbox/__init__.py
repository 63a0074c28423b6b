"""Chatterbox: speech in a cloned voice, by the modules and weights of `chatterbox-tts`."""
