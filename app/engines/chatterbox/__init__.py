"""Chatterbox: speech in a cloned voice, by the modules and weights of `chatterbox-tts`."""

import warnings

# What upstream's own imports and calls are warned of; nobody who runs the service can mend it.
for _message in ("`LoRACompatibleLinear` is deprecated", "`torch.backends.cuda.sdp_kernel"):
    warnings.filterwarnings("ignore", _message, FutureWarning)
