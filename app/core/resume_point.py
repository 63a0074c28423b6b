"""The place between two text chunks from which another run of the pipeline continues a job."""

import msgspec


class ResumePoint(msgspec.Struct, frozen=True):
    """`text_chunk`: index of the next one. `joiner`, `watermark`: their `state`, at most 0.1 MB.

    Random numbers depend on the seed and the text chunk, so there is no other state.
    """

    text_chunk: int = 0
    joiner: bytes = b""
    watermark: bytes = b""


BEGINNING = ResumePoint()
