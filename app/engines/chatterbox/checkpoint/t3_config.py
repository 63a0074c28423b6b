"""Build upstream's configuration of a variant's T3."""

from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from chatterbox.models.t3.modules.t3_config import T3Config

from app.engines.chatterbox.variants import T3Spec

# Of Chatterbox Nano, which is newer than the package.
LLAMA_CONFIGS.setdefault(
    "GPT2_small",
    LLAMA_CONFIGS["GPT2_medium"] | {"n_embd": 768, "hidden_size": 768, "n_head": 12, "n_layer": 12},
)


def t3_config(spec: T3Spec) -> T3Config:
    config = T3Config(text_tokens_dict_size=spec.text_vocab_size)
    vars(config).update(spec.config)
    return config
