"""A nursery of decoders: the real `app.audio.sandbox.main`, forked once for each file.

    python -m tests.support.forked_decoder LIMITS FOLDER

Importing takes a decoder ten times as long as deciding on a small file; here it is done once. Each
file of the folder is decoded to a file beside it; on standard output, one line of JSON says how.
"""

import json
import os
import sys
from pathlib import Path
from time import monotonic

import av
import av.subtitles.codeccontext
import av.subtitles.stream  # noqa: F401 - imported here so that no decoder has to

from app.audio import sandbox as decode


def main() -> None:
    for source in sorted(Path(sys.argv[2]).iterdir()):
        began = monotonic()
        child = os.fork()
        if not child:
            os.dup2(os.open(source, os.O_RDONLY), 0)
            os.dup2(os.open(f"{source}.decoded", os.O_WRONLY | os.O_CREAT | os.O_EXCL), 1)
            os._exit(decode.main())  # the limits are its argument, too
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
