"""README.md and the manual: commands run, answers are the real ones, links and names resolve."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.support.manual import PAGES, blocks, section
from tests.support.media import seconds_of
from tests.support.service import API_KEY, ROOT, Service
from tests.test_settings import shown

STRICT_CURL = 'curl() { command curl --silent --show-error --fail "$@"; }\n'


def curl_commands() -> list[str]:
    return [text for text in blocks("bash") if text.startswith("curl")]


def answer_below(command: str) -> Any:
    """The JSON block that directly follows a command, if one does."""
    _, _, rest = PAGES["api.md"].partition(command + "```\n\n")
    return (
        json.loads(rest.split("```")[1].removeprefix("json"))
        if rest.startswith("```json")
        else None
    )


def run(command: str, folder: Path, service: Service) -> str:
    for written, real in {
        "<YOUR_API_KEY>": API_KEY,
        "api_key=secret": f"api_key={API_KEY}",
        "X-API-Key: secret": f"X-API-Key: {API_KEY}",
        "http://localhost:8000": service.url,
        "/path/to/your/voice.wav": str(folder / "voice.wav"),
    }.items():
        command = command.replace(written, real)
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
    """The working folder of the commands, with recordings; `your_voice.wav` is uploaded."""
    folder = tmp_path_factory.mktemp("manual")
    for name in ("voice.wav", "my-voice.wav"):
        shutil.copy(ROOT / "preloaded-voices" / "austen.wav", folder / name)
    with preview.client() as client, (folder / "voice.wav").open("rb") as recording:
        uploaded = client.post("/voices", files={"file": ("your_voice.wav", recording)})
        assert uploaded.status_code == 201
        yield folder
        client.delete("/voices/your_voice.wav").raise_for_status()
        client.delete("/voices/my-voice.wav")  # which a command has uploaded


def test_each_curl_command_gives_the_printed_answer_or_a_file_that_plays(
    folder: Path, preview: Service
) -> None:
    commands = [each for each in curl_commands() if "/tts/convert" not in each]  # needs Chatterbox
    assert len(commands) == 10
    for command in commands:
        output = run(command, folder, preview)
        for name in re.findall(r"--output (\S+)", command):
            assert seconds_of((folder / name).read_bytes()) > 0.5, name
        printed = answer_below(command)
        if printed is None:
            continue
        answer = json.loads(output)
        if "system-status" in command:  # here without a GPU, and with the built-in voice
            printed["gpus"] = []
            printed["workers"][0]["notice"] = "something"
            [model] = answer["models"]
            model["voices"] = {"austen.wav": model["voices"]["austen.wav"]}  # there are more here
        assert shape(answer) == shape(printed)
        if isinstance(printed, dict) and "message" in printed:
            assert answer == printed


def test_the_python_clients_speak(folder: Path, preview: Service) -> None:
    codes = [code for code in blocks("python") if "from openai import" in code]
    assert len(codes) == 2
    for code in codes:
        [name] = re.findall(r'to_file\("(.*)"\)', code)
        code = code.replace("<YOUR_API_KEY>", API_KEY).replace("http://localhost:8000", preview.url)
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=60)
        assert seconds_of((folder / name).read_bytes()) > 0.5


def test_every_client_has_a_section_with_the_address() -> None:
    for client in (
        *("openai for Python", "openai for JavaScript", "Open WebUI", "SillyTavern"),
        *("LiveKit Agents", "Pipecat", "Home Assistant"),
    ):
        assert ":8000/v1" in section("clients.md", client)


def test_the_command_line_examples_run(tmp_path: Path) -> None:
    [block] = [text for text in blocks("bash") if "chatterbox-tts speak" in text]
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


def test_the_manual_has_a_row_for_every_parameter(preview: Service) -> None:
    with preview.client() as client:
        route = client.get("/openapi.json").json()["paths"]["/tts/generate"]["get"]
    rows = re.findall(r"^\| `(\w+)` \|", section("api.md", "Parameters"), re.MULTILINE)
    assert rows == [parameter["name"] for parameter in route["parameters"]]


def test_the_error_example_is_a_real_answer(preview: Service) -> None:
    [printed] = [json.loads(text) for text in blocks("json") if '"error":' in text]
    with preview.client() as client:
        answer = client.get("/tts/generate", params={"text": "hi", "voice_id": "austn"}).json()
    for each in (answer, printed):  # other voices are here
        each["error"]["message"] = each["error"]["message"].partition("? There ")[0]
    assert answer == printed


def test_compose_files_are_valid(tmp_path: Path) -> None:
    files = []
    for number, compose in enumerate(yaml_blocks("services")):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(compose))
    assert len(files) == 2
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_open_webui_reaches_the_service_between_the_containers() -> None:
    [services] = [each["services"] for each in yaml_blocks("services") if len(each["services"]) > 1]
    webui = services["open-webui"]["environment"]
    assert webui["AUDIO_TTS_OPENAI_API_BASE_URL"] == f"http://tts:{Settings().port}/v1"
    assert webui["AUDIO_TTS_OPENAI_API_KEY"] == services["tts"]["environment"]["API_KEY"]


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
    return [block for block in map(yaml.safe_load, blocks("yaml")) if key in block]


# --- README.md and app/docs as pages --------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 250


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_manual_has_a_row_for_every_setting(name: str) -> None:
    field = Settings.model_fields[name]
    default = "None" if name == "api_key" else shown(field.default) or "None"
    if isinstance(field.default, Path) and name.endswith("_dir"):
        default += "/"
    if name == "tts_chunk_overlap_strategy":
        default = f'"{default}"'
    page = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", PAGES["configuration.md"])  # without links
    row = f"| `{name.upper()}` | {field.description} | `{default}` |"
    assert page.splitlines().count(row) == 1


def test_the_readme_links_every_page_of_the_manual() -> None:
    linked = re.findall(r"\]\(app/docs/(\w+\.md)\)", section("README.md", "Manual"))
    assert sorted(linked) == sorted(PAGES.keys() - {"README.md"})


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "app/docs"
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = folder / (name or page)
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    pattern = r"(?<![\w./])\.?\w[\w./-]*/[\w.-]+\.(?:py|js|txt|toml|yml)\b"
    for name in re.findall(pattern, PAGES[page]):
        assert any((folder / name).exists() for folder in (ROOT, ROOT / "app")), name
