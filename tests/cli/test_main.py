"""The command line, each command in a process of its own."""

import os
import pty
import socket
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from app import __version__
from app.model_files.manifest import ENGLISH, MANIFESTS
from tests.support.engines import expected_pcm, voice_code
from tests.support.media import audio_file, seconds_of, tone
from tests.support.service import ROOT, SCRIPTED

SPOKEN = "audio30 audio5"
SPOKEN_S = 35 * 0.04
BAR = ("\x1b", "\r", "━", "0:00:00")


def command(
    folder: Path, *args: str, stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """`chatterbox-tts args…` in `folder`, its output and errors in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "app", *args],
        cwd=folder,
        env=environment(env),
        input=stdin,
        capture_output=True,
        timeout=60,
    )


def environment(env: dict[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    no_server = {"HOST": "127.0.0.1", "PORT": "1"}
    return inherited | {"PYTHONPATH": str(ROOT), "MODEL": SCRIPTED} | no_server | env


def speak(folder: Path, *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`speak …`, which succeeds."""
    done = command(folder, "speak", *args, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of a command that cannot be done."""
    assert done.returncode not in (0, None)
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("chatterbox-tts: ")
    return line


# --- text -----------------------------------------------------------------------------------------

MARKED = "## *Act* Ⅳ\n\nIt costs **€5.99** 😀😀\n- [a](b.html) → c\n- [STOP] <break time='1s'/>"


def test_text_shows_what_is_spoken_and_what_is_dropped(tmp_path: Path) -> None:
    done = command(tmp_path, "text", MARKED, "--model", "chatterbox")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        "Act IV", "[pause 0.4s]", "It costs 5.99 euros", "[pause 0.25s]", "a to c", "[pause 0.25s]",
        "(STOP)", "[pause 1s]",
    ]  # fmt: skip
    assert done.stderr.decode().splitlines() == [
        "dropped: b.html", "dropped: 😀 (U+1F600, GRINNING FACE), 2 times",
    ]  # fmt: skip


def test_text_reads_markup_out_where_the_service_does(tmp_path: Path) -> None:
    done = command(
        tmp_path, "text", "-", "--model", "preview", stdin=b"a **b**", TTS_STRIP_MARKUP="false"
    )
    assert (done.stdout, done.stderr) == (b"a **b**\n", b"")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("hi", "--model", "other"), "give one of chatterbox, turbo"),
        (("*",), "nothing in this text"),
    ],
)
def test_text_names_what_it_does_not_have(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refusal(command(tmp_path, "text", *arguments))


# --- speak ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp3", "mp4", "M4A", "webm"])
def test_the_ending_chooses_a_format_that_plays(tmp_path: Path, ending: str) -> None:
    speak(tmp_path, SPOKEN, "-o", f"out.{ending}")
    file = (tmp_path / f"out.{ending}").read_bytes()
    assert seconds_of(file) == pytest.approx(SPOKEN_S, abs=0.13)
    assert [path.name for path in tmp_path.iterdir()] == [f"out.{ending}"]


def test_text_may_come_from_standard_input_and_the_seed_counts(tmp_path: Path) -> None:
    speak(tmp_path, "-", "-o", "out.pcm", "--seed", "7", stdin=SPOKEN.encode())
    assert (tmp_path / "out.pcm").read_bytes() == expected_pcm(SPOKEN, 7)


def test_speak_writes_a_wav_of_its_true_length_by_default(tmp_path: Path) -> None:
    speak(tmp_path, SPOKEN)
    with wave.open(str(tmp_path / "speech.wav")) as file:
        assert file.getnframes() == SPOKEN_S * file.getframerate()


def test_speak_shows_no_progress_bar_in_a_pipe(tmp_path: Path) -> None:
    done = speak(tmp_path, SPOKEN, "-o", "out.mp3")
    shown = done.stderr.decode()
    for part in ("1.40 s of audio", "first audio after", "real-time factor", "scripted model"):
        assert part in shown
    assert len(shown.splitlines()) == 1
    assert not [sign for sign in BAR if sign in shown]
    assert done.stdout == b""


def test_speak_shows_a_progress_bar_in_a_terminal(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "speak", SPOKEN, "-o", "out.mp3"],
        cwd=tmp_path,
        env=environment({"TERM": "xterm", "COLUMNS": "120"}),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = _everything_from(controller).decode()
    os.close(controller)
    assert process.wait(30) == 0
    for part in ("speaking", "━", "100%", "real-time factor"):
        assert part in shown


def _everything_from(controller: int) -> bytes:
    shown = b""
    while True:
        try:
            shown += os.read(controller, 65_536)
        except OSError:  # how Linux says that the last process has left the terminal
            return shown


def test_a_voice_is_an_id_or_a_file(tmp_path: Path) -> None:
    for folder, seconds in (("voices", 1.1), ("preloaded-voices", 1.2), (".", 1.3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        content = audio_file(tone(seconds))
        (tmp_path / folder / f"v {seconds}.wav").write_bytes(content)
        speak(tmp_path, "audio3", "-o", "out.pcm", "--seed", "7", "--voice", f"v {seconds}.wav")
        code = voice_code(tone(seconds))
        assert (tmp_path / "out.pcm").read_bytes() == expected_pcm("audio3", 7, code)


def test_the_built_in_voice_speaks_and_says_that_it_ignores_a_voice(tmp_path: Path) -> None:
    args = ("Hello, this is a test.", "-o", "out.wav", "--voice", "austen.wav")
    done = speak(tmp_path, *args, MODEL="auto", PRELOADED_VOICES_DIR=str(ROOT / "preloaded-voices"))
    shown = done.stderr.decode()
    assert "the preview voice ignores --voice" in shown
    assert "preview model" in shown
    assert seconds_of((tmp_path / "out.wav").read_bytes()) > 1
    with av.open(tmp_path / "out.wav") as media:
        assert np.abs([frame.to_ndarray().max() for frame in media.decode(audio=0)]).max() > 3000


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((SPOKEN, "-o", "out.txt"), "out.txt"),
        ((SPOKEN, "-o", "out"), ".wav .mp3"),
        ((" \u200b ", "-o", "out.wav"), "nothing in this text"),
        ((SPOKEN, "-o", "no/such/out.wav"), "no/such"),
        ((SPOKEN, "-o", "folder.wav"), "folder.wav"),
        ((SPOKEN, "--voice", "text.wav"), "cannot be used"),
    ],
)
def test_failed_speak_is_one_line_and_leaves_no_file(
    tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "text.wav").write_text("This is not audio.")
    assert said in refusal(command(tmp_path, "speak", *args))
    assert {path.name for path in tmp_path.iterdir()} == {"folder.wav", "text.wav"}


def test_invalid_standard_input_is_one_line(tmp_path: Path) -> None:
    strict = {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    done = command(tmp_path, "speak", "-", stdin=b"audio3 \xe9", **strict)
    assert "standard input is not UTF-8 text (byte 8" in refusal(done)


def test_failed_speech_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.wav").write_bytes(b"old")
    done = command(tmp_path, "speak", "audio30 raise", "-o", "out.wav")
    assert done.returncode not in (0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]
    assert (tmp_path / "out.wav").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("args", "package", "extra"),
    [
        (("speak", "Hello."), "piper", "preview"),
        (("serve",), "piper", "preview"),
        (("bench", "engine"), "torch", "chatterbox"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_the_command(
    tmp_path: Path, args: tuple[str, ...], package: str, extra: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    done = command(tmp_path, *args, MODEL="preview", API_KEY="k", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert f"pip install -c .ci/constraints.txt '.[{extra}]'" in refusal(done)


def test_serve_listens_where_its_options_say(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        args = ("serve", "--host", "127.0.0.1", "--port", port)
        line = refusal(command(tmp_path, *args, API_KEY="k", HOST="::", PORT="2"))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


# --- voices and models ----------------------------------------------------------------------------


def test_voices_command_lists_both_folders(tmp_path: Path) -> None:
    for name in ("voices/mine.wav", "preloaded-voices/theirs.mp3", "voices/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1234))
    (tmp_path / "voices" / "folder.wav").mkdir()
    (tmp_path / "voices" / "link.wav").symlink_to(tmp_path / "nowhere.wav")
    done = command(tmp_path, "voices")
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode()
    assert shown == "mine.wav\tvoices\t1234\ntheirs.mp3\tpreloaded-voices\t1234\n"


def test_voices_command_names_the_folders(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    last = command(tmp_path, "voices").stderr.decode().splitlines()[-1]
    preloaded = tmp_path / "preloaded-voices"
    assert last == f"looked in {tmp_path / 'voices'} and {preloaded} (does not exist)"


def test_missing_voice_error_names_the_folders(tmp_path: Path) -> None:
    line = refusal(command(tmp_path, "speak", SPOKEN, "--voice", "nobody.wav"))
    assert "no voice nobody.wav" in line
    assert line.endswith(f"{tmp_path / 'voices'} or {tmp_path / 'preloaded-voices'}")


def test_a_voices_folder_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "voices").write_text("no folder")
    assert "cannot read voices" in refusal(command(tmp_path, "voices"))


def test_models_lists_present_files_and_the_download_command(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    present = next(iter(ENGLISH.files))
    (tmp_path / "models" / present).write_bytes(bytes(4321))
    done = command(tmp_path, "models")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    for name in ENGLISH.files:
        [line] = [line for line in lines if name in line]
        assert ("4,321" if name == present else "missing") in line
    assert "chatterbox-tts models download" in done.stdout.decode()


def test_models_shows_the_state_of_each(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("turbo", "nano"):
        (models / name).mkdir(parents=True)
        for file, published in MANIFESTS[name].checksums.items():
            with (models / name / file).open("wb") as target:
                target.truncate(published.size)  # takes no space
    (models / "nano" / "merges.txt").write_text("cut off")
    (models / "nano" / "vocab.json").unlink()
    done = command(tmp_path, "models", COLUMNS="120")
    lines = [line.split("│") for line in done.stdout.decode().splitlines() if "│" in line]
    states = {line[1].strip(): line[2].strip() for line in lines if line[1].strip()}
    assert states == {
        "chatterbox": "not there",
        "turbo": "complete",
        "nano": "damaged files",
        "multilingual": "not there",
    }
    files = {line[2].strip(): line[3].strip() for line in lines if not line[1].strip()}
    assert files["vocab.json"] == "missing"
    assert files["merges.txt"] == "7 (not the published file)"
    assert files["added_tokens.json"] == "418"


def test_unknown_model_is_not_downloaded(tmp_path: Path) -> None:
    line = refusal(command(tmp_path, "models", "download", "flash"))
    assert line.endswith("no model 'flash': give some of chatterbox, turbo, nano, multilingual")


def test_download_without_a_network_is_no_mistake_and_leaves_no_folder(tmp_path: Path) -> None:
    args = ("models", "download", "turbo")
    done = command(tmp_path, *args, HF_ENDPOINT="http://127.0.0.1:1", COLUMNS="300")
    assert done.returncode == 1
    line = refusal(done)
    assert "cannot reach 127.0.0.1" in line
    assert "connect to the network and repeat the command, set HF_ENDPOINT" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args", [(), ("-h",), ("speak", "-h"), ("models", "download", "-h"), ("bench", "engine", "-h")]
)
def test_prints_help(tmp_path: Path, args: tuple[str, ...]) -> None:
    done = command(tmp_path, *args)
    shown = (done.stdout if args else done.stderr).decode()
    assert "Usage: " in shown
    if len(args) < 2:
        for name in ("serve", "speak", "voices", "models"):
            assert name in shown


# --- version --------------------------------------------------------------------------------------


def test_prints_the_version_without_any_setting(tmp_path: Path) -> None:
    done = command(tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"chatterbox-tts {__version__}\n"


# --- languages ------------------------------------------------------------------------------------


def test_text_is_shown_as_it_is_spoken_in_its_language(tmp_path: Path) -> None:
    german = command(tmp_path, "text", "5 € 😀", "--model", "chatterbox", "--language", "de-AT")
    assert german.stdout.decode() == "5 €\n"
    default = command(tmp_path, "text", "5 €", "--model", "chatterbox", DEFAULT_LANGUAGE="de")
    assert default.stdout.decode() == "5 €\n"


def test_speak_refuses_a_language_that_the_model_does_not_speak(tmp_path: Path) -> None:
    line = refusal(command(tmp_path, "speak", "Hallo", "--language", "DE"))
    assert "does not speak German (de), only: en." in line
