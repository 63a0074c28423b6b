"""Many decoders: the real `app.audio.decoder_main.main`, forked once for each file.

    python -m tests.support.forked_decoder LIMITS FOLDER

Importing takes a decoder ten times as long as deciding on a small file; here it is done once. Each
file of the folder is decoded to a file beside it; on standard output, one line of JSON says how.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import av
import av.subtitles.codeccontext
import av.subtitles.stream  # noqa: F401 - imported here so that no decoder has to

from app.audio import decoder_main
from app.audio.decode_limits import DecodeLimits
from tests.support.service import ROOT


def decode_all(
    folder: Path, files: Mapping[str, bytes], limits: DecodeLimits
) -> dict[str, dict[str, Any]]:
    """Return what each decoder did, by the file's name."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    nursery = subprocess.run(
        [sys.executable, "-m", "tests.support.forked_decoder", json.dumps(asdict(limits)), folder],
        cwd=ROOT,
        env={"OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    reports = {report["file"]: report for report in map(json.loads, nursery.stdout.splitlines())}
    assert reports.keys() == files.keys()
    return reports


def main() -> None:
    for source in sorted(Path(sys.argv[2]).iterdir()):
        began = monotonic()
        child = os.fork()
        if not child:
            os.dup2(os.open(source, os.O_RDONLY), 0)
            os.dup2(os.open(f"{source}.decoded", os.O_WRONLY | os.O_CREAT | os.O_EXCL), 1)
            os._exit(decoder_main.main())  # the limits are its argument, too
        _, status, used = os.wait4(child, 0)
        report = {
            "file": source.name,
            "status": os.waitstatus_to_exitcode(status),
            "seconds": monotonic() - began,
            "bytes": used.ru_maxrss * 1024,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
