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
from app.engines.chatterbox.variants import TURBO
from tests.engines.chatterbox.t3.reference import DEFAULTS, TEXT


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
    frontend = EnglishFrontend(models.tokenizer)

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


@pytest.fixture(scope="package")
def turbo_file(tmp_path_factory):
    """Random weights at tiny size, whose speech begins after a prompt shorter than usual."""
    weights = random_weights._random_weights(_tiny_turbo, "turbo")
    with mock.patch.object(random_weights, "_GPT2_PROMPT", 1 + VOICE_TOKENS + len(TEXT)):
        random_weights._scale_gpt2(weights, end_at=25)
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
    """As `request_for`, of a voice with fewer tokens than most."""
    longest = builtin_conditionals(random_weights.conditionals(TURBO, 0))
    usual = replace(longest, prompt_tokens=longest.prompt_tokens[:, :VOICE_TOKENS])

    def request_for(text=TEXT, seed=1, max_tokens=200, longest_voice=False, **params):
        voice = longest if longest_voice else usual
        params = msgspec.structs.replace(DEFAULTS, **{"top_p": 0.95} | params)
        text_tokens = torch.tensor([[ord(char) for char in text]])
        return T3Request(text_tokens, voice, params, seed, max_tokens)

    return request_for


def _tiny_turbo():
    sizes = {"hidden_size": 64, "n_embd": 64, "n_head": 2, "n_layer": 3, "vocab_size": 8}
    with mock.patch.dict(LLAMA_CONFIGS["GPT2_medium"], sizes):
        return T3(t3_config(TINY_TURBO))
