"""Where `python -m app` and the `chatterbox-tts` command begin."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working folder, whose modules could hide installed ones

import signal


def main() -> None:
    # The first process of a container ignores a signal for which it has no handler, and the
    # imports take a second.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from app.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
