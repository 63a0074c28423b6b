"""Sizes and receptive fields of S3Gen, which are the same in all variants."""

FRAMES_PER_TOKEN = 2
"""Mel frames of one speech token."""

MEL_BANDS = 80

SPEAKER_DIM = 192
"""Size of the speaker's x-vector."""

F0_RECEPTIVE_FIELD = 5
"""Mel frames to either side that influence a frame's F0."""

FILTER_RECEPTIVE_FIELD = 12
"""Frames of mel and excitation to either side that influence a sample; the thirteenth and
fourteenth change it by less than rounding does."""

LOOKAHEAD_FRAMES = F0_RECEPTIVE_FIELD + FILTER_RECEPTIVE_FIELD
"""Frames at the end of a mel whose samples may still change when the mel grows."""

MIN_CONTEXT_TOKENS = -(-LOOKAHEAD_FRAMES // FRAMES_PER_TOKEN) + 3
"""Tokens that are always solved again: the vocoder's look-ahead and the encoder's."""
