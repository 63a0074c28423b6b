from app.engines.chatterbox.runtime.cuda_graphs import NoRecorder


class FewShapes(NoRecorder):
    """Everything as on a GPU but the recordings: padded, together, several steps at once."""

    fixes_shapes = True
