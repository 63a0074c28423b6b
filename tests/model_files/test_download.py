"""`download` from an HTTP server on loopback that imitates the Hugging Face hub."""

import fcntl
import hashlib
import io
import itertools
import random
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TextIO

import pytest

from app.core.errors import StartupError
from app.model_files.download import download
from app.model_files.manifest import ENGLISH, TURBO, Archive, Checksum, Manifest, missing

CONTENTS = {name: random.Random(name).randbytes(400_000) for name in ENGLISH.files} | {
    "tokenizer.json": b'{"model": "not a large file"}'
}
MANIFEST = replace(
    ENGLISH,
    checksums={
        name: Checksum(len(content), hashlib.sha256(content).hexdigest())
        for name, content in CONTENTS.items()
    },
)


@dataclass
class Hub:
    """The server's content and faults."""

    endpoint: str
    contents: dict[str, bytes] = field(default_factory=lambda: dict(CONTENTS))
    cuts: dict[str, Iterator[int]] = field(default_factory=dict)  # bytes until the connection ends
    stall: threading.Event | None = None  # a cut connection hangs until this is set
    honours_ranges: bool = True
    captive: bool = False
    ranges: list[tuple[str, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        files = self._folder_of(TURBO if self.path.endswith(TURBO.s3gen) else ENGLISH)
        if self.hub.captive:
            page = b"<html>Welcome to our hotel</html>"
            self._send(200, page, **{"Content-Type": "text/html; charset=utf-8"})
        elif self.path.startswith(files):
            self._send(302, b"", Location=self.path.replace(files, "/cdn/"))
        elif self.path.startswith("/cdn/"):
            self._send_file(self.path.removeprefix("/cdn/"))
        else:
            self._send(404, b"")

    @staticmethod
    def _folder_of(manifest: Manifest) -> str:
        return f"/{manifest.repository}/resolve/{manifest.revision}/"

    def _send_file(self, name: str) -> None:
        requested = self.headers["Range"]
        self.hub.ranges.append((name, requested))
        content, start = self.hub.contents[name], 0
        if self.hub.honours_ranges and requested:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
        body = content[start:]
        cut = next(self.hub.cuts.get(name, iter(())), len(body))
        self._send(206 if start or self.hub.honours_ranges else 200, body, cut=cut)

    def _send(self, status: int, body: bytes, cut: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.wfile.flush()
        if cut is not None and cut < len(body):
            if self.hub.stall:
                self.hub.stall.wait()
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.hub = Hub(endpoint=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Handler.hub
    server.shutdown()
    thread.join()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ENGLISH.files if (folder / name).exists()
    }


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.part")]


def fail(folder: Path, hub: Hub, manifest: Manifest = MANIFEST) -> str:
    with pytest.raises(StartupError) as failure:
        download(folder, endpoint=hub.endpoint, manifest=manifest)
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_download_creates_the_folder(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "new" / "models"
    download(folder, endpoint=hub.endpoint, manifest=MANIFEST)
    assert contents(folder) == CONTENTS
    assert missing(folder) == [] == leftovers(folder)


def test_progress_counts_every_file_up_to_its_size(tmp_path: Path, hub: Hub) -> None:
    seen: dict[str, list[int]] = {}
    download(
        tmp_path,
        lambda name, done, total: seen.setdefault(name, []).append(done),
        hub.endpoint,
        MANIFEST,
    )
    assert {name: counts[-1] for name, counts in seen.items()} == {
        name: len(content) for name, content in CONTENTS.items()
    }
    assert all(counts == sorted(counts) for counts in seen.values())


def test_intact_files_are_kept_and_others_replaced(tmp_path: Path, hub: Hub) -> None:
    download(tmp_path, endpoint=hub.endpoint, manifest=MANIFEST)
    (tmp_path / "ve.safetensors").write_bytes(CONTENTS["ve.safetensors"][:-1] + b"?")
    hub.ranges.clear()
    seen = {}
    download(tmp_path, lambda name, done, _: seen.update({name: done}), hub.endpoint, MANIFEST)
    assert contents(tmp_path) == CONTENTS
    assert seen == {name: len(content) for name, content in CONTENTS.items()}
    assert [name for name, _ in hub.ranges] == ["ve.safetensors"]


def test_broken_connection_is_resumed(tmp_path: Path, hub: Hub) -> None:
    hub.cuts["t3_cfg.safetensors"] = iter([100_000, 50_000])
    download(tmp_path, endpoint=hub.endpoint, manifest=MANIFEST)
    assert contents(tmp_path) == CONTENTS
    ranges = [requested for name, requested in hub.ranges if name == "t3_cfg.safetensors"]
    assert ranges == ["bytes=0-", "bytes=100000-", "bytes=150000-"]


def test_connection_without_data_ends_the_download(tmp_path: Path, hub: Hub) -> None:
    hub.cuts["t3_cfg.safetensors"] = itertools.chain([100_000], itertools.repeat(0))
    assert fail(tmp_path, hub).startswith("cannot reach 127.0.0.1 (")
    assert contents(tmp_path).keys() == {"ve.safetensors"}
    hub.cuts.clear()
    download(tmp_path, endpoint=hub.endpoint, manifest=MANIFEST)
    assert ("t3_cfg.safetensors", "bytes=100000-") in hub.ranges
    assert contents(tmp_path) == CONTENTS


def test_killed_download_is_resumed_by_the_next_process(tmp_path: Path, hub: Hub) -> None:
    hub.cuts["ve.safetensors"], hub.stall = iter([300_000]), threading.Event()
    script = (
        "import sys; from pathlib import Path; from app.model_files.download import download\n"
        "from tests.model_files.test_download import MANIFEST\n"
        "show = lambda *step: print(*step, flush=True)\n"
        "download(Path(sys.argv[1]), show, sys.argv[2], MANIFEST)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path, hub.endpoint], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if int(line.split()[1]) == 300_000:
                break
        assert "another download" in fail(tmp_path, hub)
        process.send_signal(signal.SIGKILL)
    hub.stall.set()
    (part,) = leftovers(tmp_path)
    received = (tmp_path / part).stat().st_size
    assert 0 < received <= 300_000
    hub.ranges.clear()
    download(tmp_path, endpoint=hub.endpoint, manifest=MANIFEST)
    assert hub.ranges[0] == ("ve.safetensors", f"bytes={received}-")
    assert contents(tmp_path) == CONTENTS


def test_server_that_ignores_ranges_is_read_from_the_start(tmp_path: Path, hub: Hub) -> None:
    hub.cuts["ve.safetensors"], hub.honours_ranges = iter([100_000]), False
    download(tmp_path, endpoint=hub.endpoint, manifest=MANIFEST)
    assert contents(tmp_path) == CONTENTS


@pytest.mark.parametrize("name", ["conds.pt", "tokenizer.json"])
def test_wrong_checksum_deletes_the_file(name: str, tmp_path: Path, hub: Hub) -> None:
    hub.contents[name] = bytes(reversed(CONTENTS[name]))
    assert f"{name} arrived damaged" in fail(tmp_path, hub)
    assert name in missing(tmp_path)
    assert leftovers(tmp_path) == []


def test_longer_file_than_announced_is_rejected_at_once(tmp_path: Path, hub: Hub) -> None:
    hub.contents["ve.safetensors"] *= 2
    hub.cuts["ve.safetensors"], hub.stall = iter([500_000]), threading.Event()
    assert "ve.safetensors arrived damaged" in fail(tmp_path, hub)
    hub.stall.set()
    assert leftovers(tmp_path) == []


def test_closed_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        hub = Hub(endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}")
        said = fail(tmp_path / "models", hub)
    assert said.startswith("cannot reach 127.0.0.1 ([Errno 111] Connection refused): connect to ")
    assert "repeat the command, set HF_ENDPOINT to a mirror that is in reach, or put " in said
    assert list(tmp_path.iterdir()) == []
    assert said.endswith(f"into {tmp_path / 'models'} yourself")
    assert all(name in said for name in ENGLISH.files)


def test_failed_start_leaves_no_files(tmp_path: Path, hub: Hub) -> None:
    hub.captive = True
    fail(tmp_path, hub)
    assert list(tmp_path.iterdir()) == []


def test_deleted_lock_file_is_not_a_lock(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(lock: TextIO, how: int) -> None:
        (tmp_path / ".download.lock").unlink()
        flock(lock, how)

    monkeypatch.setattr("app.model_files.download.fcntl.flock", late)
    assert "another download" in fail(tmp_path, hub)


def test_unknown_revision_is_one_line(tmp_path: Path, hub: Hub) -> None:
    unknown = replace(MANIFEST, revision="0" * 40)
    said = fail(tmp_path, hub, unknown)
    assert said.startswith(f"127.0.0.1 refused {ENGLISH.repository}: 404 Not Found; try again")


def test_captive_portal_is_one_line(tmp_path: Path, hub: Hub) -> None:
    hub.captive = True
    said = fail(tmp_path, hub)
    assert said.startswith(
        "what answers in the hub's place sends a web page: open one in a browser"
    )


def test_too_small_disk_is_detected_before_fetching(tmp_path: Path, hub: Hub) -> None:
    huge = MANIFEST.checksums["t3_cfg.safetensors"]._replace(size=10**18)
    manifest = replace(MANIFEST, checksums=MANIFEST.checksums | {"t3_cfg.safetensors": huge})
    assert fail(tmp_path, hub, manifest).startswith(f"disk full: {tmp_path} has ")
    assert hub.ranges == []


def test_full_disk_is_one_line(tmp_path: Path, hub: Hub) -> None:
    digest = hashlib.sha256(CONTENTS["ve.safetensors"]).hexdigest()
    (tmp_path / f".ve.safetensors.{digest[:12]}.part").symlink_to("/dev/full")
    assert fail(tmp_path, hub) == f"cannot write to {tmp_path}: No space left on device"


def test_unwritable_folder_is_one_line(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "models").write_text("a file")
    assert fail(tmp_path / "models", hub).startswith("cannot write to ")


def test_file_of_ones_own_is_to_be_put_there_by_hand(tmp_path: Path, hub: Hub) -> None:
    manifest = replace(MANIFEST, t3="t3_mine.safetensors")
    said = fail(tmp_path, hub, manifest)
    assert said.startswith("t3_mine.safetensors cannot be fetched, being none of the pinned")
    (tmp_path / "t3_mine.safetensors").write_bytes(b"mine")
    download(tmp_path, endpoint=hub.endpoint, manifest=manifest)
    assert "t3_cfg.safetensors" not in contents(tmp_path)


def test_mean_flow_is_fetched_from_the_repository_of_its_owner(tmp_path: Path, hub: Hub) -> None:
    hub.contents[TURBO.s3gen] = b"two steps"
    owner = replace(TURBO, checksums={TURBO.s3gen: checksum_of(b"two steps")})
    download(tmp_path, endpoint=hub.endpoint, manifest=MANIFEST.with_s3gen_of(owner))
    assert (tmp_path / TURBO.s3gen).read_bytes() == b"two steps"
    assert contents(tmp_path).keys() == CONTENTS.keys() - {ENGLISH.s3gen}


def test_archive_is_extracted_and_fetched_again_if_a_member_is_damaged(
    tmp_path: Path, hub: Hub
) -> None:
    members = {name: random.Random(name).randbytes(5000) for name in ("a.msgpack", "b.npz")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(f"inner/{name}", member)
    hub.contents["words.zip"] = content.getvalue()
    own = {f"words/{name}": checksum_of(member) for name, member in members.items()}
    url = f"{hub.endpoint}/cdn/words.zip"
    archive_ = Archive("words.zip", url, checksum_of(content.getvalue()), tuple(own))
    manifest = replace(
        MANIFEST, checksums=MANIFEST.checksums | own, extra=tuple(own), archives=(archive_,)
    )
    for _ in range(2):
        download(tmp_path, endpoint=hub.endpoint, manifest=manifest)
        assert {path.name: path.read_bytes() for path in (tmp_path / "words").iterdir()} == members
        assert leftovers(tmp_path) == []
    assert [name for name, _ in hub.ranges].count("words.zip") == 1
    (tmp_path / "words" / "b.npz").write_bytes(b"damaged")
    download(tmp_path, endpoint=hub.endpoint, manifest=manifest)
    assert (tmp_path / "words" / "b.npz").read_bytes() == members["b.npz"]
    wrong = replace(
        manifest, checksums=manifest.checksums | {"words/b.npz": own["words/a.msgpack"]}
    )
    assert fail(tmp_path, hub, wrong) == "words/b.npz in words.zip is not the published file"


def checksum_of(content: bytes) -> Checksum:
    return Checksum(len(content), hashlib.sha256(content).hexdigest())
