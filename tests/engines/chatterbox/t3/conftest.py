from dataclasses import replace
from unittest import mock

import msgspec
import pytest
import torch
from chatterbox.models.t3 import T3
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS
from safetensors.torch import load_file, save_file

from app.bench import random_weights
from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.conditioning.conditionals import builtin_conditionals
from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.runtime.linear import use_linears
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.variants import ENGLISH, TURBO
from tests.engines.chatterbox.t3.reference import DEFAULTS, START, TEXT


@pytest.fixture(scope="package")
def t3(models):
    return models.t3


@pytest.fixture(scope="package")
def upstream_t3(upstream):
    """The same weights, loaded by the package itself."""
    return upstream.t3


@pytest.fixture(scope="package")
def request_for(models):
    """`request_for(text, seed=…, max_tokens=…, **params)` with the checkpoint's own voice."""
    frontend = EnglishFrontend(models.tokenizer, ENGLISH)

    def request_for(text=TEXT, seed=1, max_tokens=200, **params):
        return T3Request(
            frontend.tokenize(text),
            models.default_voice,
            msgspec.structs.replace(DEFAULTS, **params),
            seed,
            max_tokens,
        )

    return request_for


# --- Turbo ----------------------------------------------------------------------------------------

TINY_TURBO = replace(TURBO.t3, text_vocab_size=128)
"""Its text tokens are the code points of ASCII."""

VOICE_TOKENS = 60
END_AT = VOICE_TOKENS + len(TEXT) + 25
"""The position of the stop token, about."""


@pytest.fixture(scope="package")
def turbo_file(tmp_path_factory):
    """Random weights at tiny size: a few tokens are likely, and attention is sharp."""
    weights = random_weights._random_weights(_tiny_turbo, "turbo")
    for name, weight in weights.items():
        if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            weight *= (weight.shape[1] / weight.shape[0]) ** 0.5  # by the root of the fan-in
        if name.endswith("c_attn.weight"):
            weight[:, : 2 * len(weight)] *= 2  # query and key
        if name.endswith(("text_emb.weight", "speech_emb.weight")):
            weight *= weight.shape[1] ** 0.5
    head = weights["speech_head.weight"]
    head *= 2.5 * torch.exp(0.4 * torch.randn(len(head), 1, generator=torch.manual_seed(0)))
    head[START:] *= 0.7
    head[START] = 0
    random_weights._end_by_position(weights["tfmr.wpe.weight"], head[random_weights.END], END_AT, 3)
    path = tmp_path_factory.mktemp("turbo") / "t3.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="package")
def load_upstream_turbo(turbo_file):
    """As `ChatterboxTurboTTS.from_local` loads it."""

    def load():
        t3 = _tiny_turbo()
        t3.load_state_dict(load_file(turbo_file))
        del t3.tfmr.wte
        return t3.eval().requires_grad_(False)

    return load


@pytest.fixture(scope="package")
def load_turbo(load_upstream_turbo):
    def load():
        t3 = load_upstream_turbo()
        use_linears(t3.tfmr)
        return t3

    return load


@pytest.fixture(scope="package")
def upstream_turbo(load_upstream_turbo):
    return load_upstream_turbo()


@pytest.fixture(scope="package")
def turbo(load_turbo):
    return load_turbo()


@pytest.fixture(scope="package")
def turbo_request_for():
    """As `request_for`, of a shorter prompt."""
    voice = builtin_conditionals(random_weights.conditionals(0))
    voice = replace(voice, prompt_tokens=voice.prompt_tokens[:, :VOICE_TOKENS])

    def request_for(text=TEXT, seed=1, max_tokens=200, **params):
        params = msgspec.structs.replace(DEFAULTS, **{"top_p": 0.95} | params)
        text_tokens = torch.tensor([[ord(char) for char in text]])
        return T3Request(text_tokens, voice, params, seed, max_tokens)

    return request_for


def _tiny_turbo():
    sizes = {"hidden_size": 64, "n_embd": 64, "n_head": 2, "n_layer": 3, "vocab_size": 8}
    with mock.patch.dict(LLAMA_CONFIGS["GPT2_medium"], sizes):
        return T3(t3_config(TINY_TURBO))
