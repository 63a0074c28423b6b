"""Run a soak: `python -m tests.soak --seconds 60 --seed 0`, or `--stranger` in place of a seed.

Prints one line of figures, then one for each violation. Exit code 0 without violations, else 1; the
service's log is kept.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import soak
from tests.soak.stranger import stranger


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.soak", description="Load and misuse a service."
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length, with warm-up")
    parser.add_argument("--seed", type=int, default=0, help="the same seed: the same clients")
    parser.add_argument("--stranger", action="store_true", help="attack it without the key")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tts-soak-"))
    try:
        if options.stranger:
            run = stranger(options.seconds, folder)
        else:
            run = soak(options.seconds, options.seed, folder)
        report = asyncio.run(run)
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        return 130
    print(*report.lines(), sep="\n")
    if report.violations:
        print(f"the service's log: {folder / 'service.log'}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
