from app.engines.chatterbox.runtime.cuda_graphs import GraphCapturer


class FewShapes(GraphCapturer):
    """Uses static shapes as on a GPU, but runs eagerly instead of capturing graphs."""

    static_shapes = True
