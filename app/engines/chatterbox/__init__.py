"""Chatterbox: speech in cloned voices, with the modules and weights of `chatterbox-tts`."""

import warnings

# Raised by upstream's imports and calls; users of the service cannot act on them.
for _message in ("`LoRACompatibleLinear` is deprecated", "`torch.backends.cuda.sdp_kernel"):
    warnings.filterwarnings("ignore", _message, FutureWarning)
