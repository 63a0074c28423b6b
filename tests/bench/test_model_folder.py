from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from app.bench.model_folder import TOKENS_PER_CHUNK, write_model
from app.cli import main as cli
from app.core.engine_config import EngineConfig
from app.core.errors import StartupError
from app.core.params import SynthesisParams
from app.engines.base import TextChunk
from app.engines.chatterbox.variants import VARIANTS
from tests.support.tiny_chatterbox import TinyChatterbox

TEXT = "The river carries more sand than any wind over the plain, and takes its time."


def test_files_of_another_model_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "t3_nano_v1.safetensors").write_text("precious")
    with pytest.raises(StartupError, match="nano has files already: give another folder"):
        write_model(tmp_path, "nano", "tiny")
    done = CliRunner().invoke(cli.cli, ["bench", "checkpoint", "--model", "nano", str(tmp_path)])
    assert isinstance(done.exception, StartupError)
    assert (tmp_path / "nano" / "t3_nano_v1.safetensors").read_text() == "precious"


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"cannot write .*/file/nano: "):
        write_model(tmp_path / "file", "nano", "tiny")


@pytest.mark.heavy
@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_sentence_takes_four_seconds(tmp_path: Path, variant: str) -> None:
    folder = write_model(tmp_path / "models", variant, "tiny")
    assert {path.name for path in folder.iterdir()} >= set(VARIANTS[variant].needed_files)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [variant]
    voice = torch.load(folder / "conds.pt", weights_only=True)["gen"]
    assert voice["prompt_token"].shape == (1, 250)
    engine = TinyChatterbox(EngineConfig("cpu", 1, str(folder), variant=variant))
    slices = engine.speech_tokens(TextChunk(TEXT, 0), engine.default_voice, SynthesisParams(seed=1))
    tokens = [token async for piece in slices for token in piece.tokens]
    await engine.close()
    assert len(tokens) == pytest.approx(TOKENS_PER_CHUNK, rel=0.3)
