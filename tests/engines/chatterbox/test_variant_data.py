"""What the table of variants says, beside the package's own defaults."""

import inspect

import msgspec
import pytest
from chatterbox.mtl_tts import SUPPORTED_LANGUAGES
from chatterbox.tts import ChatterboxTTS
from chatterbox.tts_turbo import ChatterboxTurboTTS

from app.core.params import SynthesisParams
from app.engines.chatterbox.checkpoint.t3_config import t3_config
from app.engines.chatterbox.variants import ENGLISH, MULTILINGUAL, NANO, TURBO, VARIANTS

PACKAGES_NAMES = {
    "exaggeration": "voice_exaggeration_factor",
    "cfg_weight": "cfg_guidance_weight",
    "temperature": "synthesis_temperature",
}


@pytest.mark.parametrize(
    ("spec", "package"),
    [
        (ENGLISH, ChatterboxTTS),
        (MULTILINGUAL, ChatterboxTTS),  # as its later versions, whose penalty is lower
        (TURBO, ChatterboxTurboTTS),
        (NANO, ChatterboxTurboTTS),
    ],
)
def test_defaults_are_the_packages(spec, package):
    own = msgspec.structs.asdict(SynthesisParams()) | spec.defaults
    theirs = {
        PACKAGES_NAMES.get(name, name): parameter.default
        for name, parameter in inspect.signature(package.generate).parameters.items()
    }
    shared = (own.keys() & theirs.keys()) - set(spec.unused)
    assert len(shared) >= 4
    assert {name: own[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_parameters_without_a_use_are_named(spec):
    used_by = {name: name for name in ("repetition_penalty", "min_p", "top_k", "top_p")} | {
        "cfg_guidance_weight": "cfg",
        "synthesis_temperature": "temperature",
    }
    unused = {name for name, sampler in used_by.items() if sampler not in spec.t3.samplers}
    if not t3_config(spec.t3).emotion_adv:
        unused.add("voice_exaggeration_factor")
    assert set(spec.unused) == unused


def test_languages_and_tags():
    assert set(MULTILINGUAL.languages) == SUPPORTED_LANGUAGES.keys()
    assert {spec.languages for spec in (ENGLISH, TURBO, NANO)} == {("en",)}
    assert len(set(TURBO.tags)) == 19
    assert (NANO.tags, ENGLISH.tags, MULTILINGUAL.tags) == (TURBO.tags, (), ())
