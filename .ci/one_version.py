"""Resolve the extra `chatterbox` under the constraints, and compare the versions with them.

python .ci/one_version.py       called by `run`; needs uv, and an index of packages

Only metadata is fetched. Where every package is held to one version, pip downloads no other.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"


def main() -> None:
    with tempfile.TemporaryDirectory() as venv:
        subprocess.run(["uv", "venv", "--quiet", "--allow-existing", venv], check=True)
        options = ("--dry-run", "--no-cache", "--python", venv, "--constraint", CONSTRAINTS)
        resolved = subprocess.run(
            ["uv", "pip", "install", *options, ".[chatterbox]"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
    versions = re.findall(r"^ \+ (\S+==\S+)$", resolved.stderr, re.M)
    allowed = {line.split(" ")[0] for line in CONSTRAINTS.read_text().splitlines()}
    others = set(versions) - allowed
    if resolved.returncode or not versions or others:
        sys.exit(f"{resolved.stderr}not held by {CONSTRAINTS.name}: {', '.join(sorted(others))}")
    print(f"{len(versions)} packages, each of the version in {CONSTRAINTS.name}")


if __name__ == "__main__":
    main()
