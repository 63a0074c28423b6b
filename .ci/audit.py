"""Says what two of pip-audit's reports hold, of the pinned packages and of the newest ones.

python audit.py REQUIREMENTS.json REQUIREMENTS-NEWEST.json      called by `audit`
"""

import json
import sys
from pathlib import Path
from typing import Any


def packages(report: Path) -> list[dict[str, Any]]:
    """With their `vulns`, or with a `skip_reason`; none without a report."""
    return json.loads(report.read_text())["dependencies"] if report.exists() else []


def show(found: list[dict[str, Any]], held_back: set[str]) -> bool:
    """Whether something is wrong that a newer version would mend."""
    to_mend = False
    for package in found:
        for flaw in package.get("vulns", ()):
            fixed = ", ".join(flaw["fix_versions"])
            pinned = " (pinned by chatterbox-tts)" if package["name"] in held_back else ""
            where = f"fixed in {fixed}{pinned}" if fixed else "fixed nowhere yet"
            print(f"{package['name']} {package['version']}: {flaw['id']}, {where}")
            to_mend |= bool(fixed) and not pinned
    looked_up = sum("vulns" in package for package in found)
    print(f"{looked_up} packages were looked up, {len(found) - looked_up} are not in the database")
    if not looked_up:
        print("NOT AUDITED: the database of vulnerabilities cannot be reached")
    return to_mend


def main(pinned: Path, newest: Path) -> int:
    ours, theirs = packages(pinned), packages(newest)
    free = {(package["name"], package.get("version")) for package in theirs}
    held_back = {p["name"] for p in ours if theirs and (p["name"], p.get("version")) not in free}
    print("The locked packages:")
    to_mend = show(ours, held_back)
    print("Without chatterbox-tts's pins:")
    return to_mend | show(theirs, set())


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
