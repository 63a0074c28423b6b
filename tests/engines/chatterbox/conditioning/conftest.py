import pytest
import soundfile

from app.core.audio import Samples
from tests.support.service import ROOT

AUSTEN = ROOT / "preloaded-voices" / "austen.wav"


@pytest.fixture(scope="package")
def austen() -> tuple[Samples, int]:
    """The samples of a voice, 10.4 s, and their rate."""
    return soundfile.read(AUSTEN, dtype="float32")
