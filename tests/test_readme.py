"""The README's commands are run, and its answers compared with the real ones."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from tests.support.service import API_KEY, ROOT, Service

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
STRICT_CURL = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'


def curl_commands() -> list[str]:
    """Those of the documented API: all curl blocks but the first, which belongs to the start."""
    return [text for kind, text in BLOCKS if kind == "bash" and text.startswith("curl")][1:]


def answer_below(command: str) -> Any:
    """The JSON block that directly follows a command, if one does."""
    _, _, rest = README.partition(command + "```\n\n")
    return (
        json.loads(rest.split("```")[1].removeprefix("json"))
        if rest.startswith("```json")
        else None
    )


def run(command: str, folder: Path, service: Service) -> str:
    for shown, real in {
        "<YOUR_API_KEY>": API_KEY,
        "http://localhost:8000": service.url,
        "/path/to/your/voice.wav": str(folder / "voice.wav"),
    }.items():
        command = command.replace(shown, real)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", STRICT_CURL + command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shape(value: Any) -> Any:
    """The keys and types of an answer; of a list, those of its first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, preview: Service) -> Iterator[Path]:
    """Where the commands run: with a recording at hand, and the voice they speak of uploaded."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(ROOT / "preloaded-voices" / "austen.wav", folder / "voice.wav")
    with preview.client() as client, (folder / "voice.wav").open("rb") as recording:
        uploaded = client.post("/voices", files={"file": ("your_voice.wav", recording)})
        assert uploaded.status_code == 201
        yield folder
        client.delete("/voices/your_voice.wav").raise_for_status()


def test_every_curl_command_gives_what_is_printed_below_it(folder: Path, preview: Service) -> None:
    commands = curl_commands()
    assert len(commands) == 8
    for command in commands:
        output = run(command, folder, preview)
        printed = answer_below(command)
        if printed is None:
            continue
        answer = json.loads(output)
        if "system-status" in command:  # here without a GPU, and with the built-in voice
            printed["gpus"] = []
            printed["workers"][0]["notice"] = "something"
        assert shape(answer) == shape(printed)
        if isinstance(printed, dict) and "message" in printed:
            assert answer == printed


@pytest.mark.parametrize(
    "name", ["default_voice_output.wav", "custom_voice_output.wav", "output.mp3"]
)
def test_the_generated_files_play(folder: Path, preview: Service, name: str) -> None:
    [command] = [command for command in curl_commands() if name in command]
    run(command, folder, preview)
    with av.open(folder / name) as file:
        seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    assert seconds > 0.5


def test_the_python_client_speaks(folder: Path, preview: Service) -> None:
    [code] = [text for kind, text in BLOCKS if kind == "python" and "from openai import" in text]
    code = code.replace("<YOUR_API_KEY>", API_KEY).replace("http://localhost:8000", preview.url)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=60)
    with av.open(folder / "hello_from_python.mp3") as file:
        assert sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0)) > 0.5


def test_every_client_has_a_section_with_the_address() -> None:
    _, _, clients = README.partition("\n## Clients\n")
    sections = re.split(r"^### ", clients.partition("\n## ")[0], flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == [
        "openai for Python",
        "openai for JavaScript",
        "Open WebUI",
        "SillyTavern",
        "LiveKit Agents",
        "Pipecat",
        "Home Assistant",
    ]
    assert all(":8000/v1" in section for section in sections)


def test_the_command_line_examples_run(tmp_path: Path) -> None:
    [block] = [text for kind, text in BLOCKS if kind == "bash" and "chatterbox-tts speak" in text]
    as_module = f'chatterbox-tts() {{ "{sys.executable}" -m app "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", as_module + block],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"morning.mp3", "evening.wav"}


def test_the_error_example_is_a_real_answer(preview: Service) -> None:
    [printed] = [json.loads(text) for kind, text in BLOCKS if kind == "json" and '"error":' in text]
    with preview.client() as client:
        answer = client.get("/tts/generate", params={"text": "hi", "voice_id": "nobody.wav"})
    assert answer.json() == printed


def test_the_compose_file_is_one() -> None:
    [compose] = yaml_blocks("services")
    assert compose["services"]["tts"]["ports"] == ["8000:8000"]


def test_the_scrape_configuration_finds_the_metrics(preview: Service) -> None:
    [configuration] = yaml_blocks("scrape_configs")
    [scrape] = configuration["scrape_configs"]
    [targets] = scrape["static_configs"]
    assert targets["targets"] == ["localhost:8000"]
    assert scrape["authorization"] == {"credentials": "<YOUR_API_KEY>"}
    headers = {"Authorization": f"Bearer {API_KEY}"}  # Prometheus' own default of a type
    with preview.client(headers=headers) as client:
        assert client.get("/metrics").status_code == 200


def yaml_blocks(key: str) -> list[dict[str, Any]]:
    blocks = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
    return [block for block in blocks if key in block]
