"""Create files that only their owner can read."""

import os


def private_opener(path: str, flags: int) -> int:
    """Open a file for `open`; a new one is for its owner only."""
    return os.open(path, flags, mode=0o600)
