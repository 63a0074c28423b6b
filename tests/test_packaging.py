"""The lock files, the Dockerfile, the workflows and the script that CI runs."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {
    "requirements.txt": ["chatterbox", "preview"],
    "requirements-newest.txt": ["chatterbox", "preview"],
    "requirements-test.txt": list(EXTRAS),
}
ALL_LOCKS = (*LOCKS, "requirements-audit.txt")


# --- The locks ----------------------------------------------------------------------------------


def entries(lock: str) -> list[str]:
    """One string per requirement: the pin, its marker and its hashes."""
    text = (ROOT / ".ci" / lock).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if not line.startswith("#")]


def pins(lock: str) -> dict[str, list[Version]]:
    """Several versions of a name are for different Pythons."""
    found: dict[str, list[Version]] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.split("--hash")[0])
        ((_, version),) = [(rule.operator, rule.version) for rule in requirement.specifier]
        found.setdefault(canonicalize_name(requirement.name), []).append(Version(version))
    return found


def test_the_top_level_holds_exactly_the_documented_files() -> None:
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    visible = {
        path.name
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and not any(fnmatch(path.name, rule) for rule in ignored)
    }
    folders = {"app", "tests", "voices", "preloaded-voices", "models"}
    assert visible == folders | {"Dockerfile", "LICENSE", "README.md", "pyproject.toml"}
    assert all((ROOT / name).exists() for name in (".ci", ".github", ".env.example"))


@pytest.mark.covers("locked dependencies")
@pytest.mark.parametrize("lock", ALL_LOCKS)
def test_every_locked_package_has_one_version_and_hashes(lock: str) -> None:
    for entry in entries(lock):
        pin, *hashes = re.split(r"\s+--hash=sha256:", entry)
        assert re.fullmatch(r"[a-z0-9.-]+==[^\s;]+( ; .+)?", pin)
        assert hashes
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes), pin


@pytest.mark.parametrize("lock", ALL_LOCKS)
def test_the_lock_names_no_index_and_no_path(lock: str) -> None:
    text = (ROOT / ".ci" / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^-|(^|\s)/", text, flags=re.MULTILINE)


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items())
def test_the_lock_agrees_with_pyproject(lock: str, extras: list[str]) -> None:
    locked = pins(lock)
    wanted = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    for requirement in map(Requirement, wanted):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), requirement


def test_tests_and_image_have_the_same_package_versions() -> None:
    shipped, tested = pins("requirements.txt"), pins("requirements-test.txt")
    assert shipped == {name: tested[name] for name in shipped}


def test_the_constraints_are_the_versions_of_the_tests_lock() -> None:
    constraints = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()[1:]
    locked = [entry.split("--hash")[0].strip() for entry in entries("requirements-test.txt")]
    assert constraints == locked


def test_the_readme_installs_the_project_under_the_constraints() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    installs = [line for line in lines if re.search(r"pip install\b.*'\.\[", line)]
    assert installs
    assert all("-c .ci/constraints.txt " in line for line in installs)


def needed_packages(extra: str) -> set[str]:
    """Everything that installing the extra brings, by the metadata of the installed packages."""
    found: set[str] = set()
    pending = [(line, "") for line in PROJECT["dependencies"] + EXTRAS[extra]]
    visited = set()
    while pending:
        line, of_extra = pending.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for each in {"", *requirement.extras}:
            if (name, each) not in visited:
                visited.add((name, each))
                pending += [(line, each) for line in metadata.requires(name) or ()]
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_install_under_constraints_can_fetch_one_version_of_a_package(extra: str) -> None:
    constraints = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()[1:]
    allowed = [
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, constraints)
        if requirement.marker is None or requirement.marker.evaluate()
    ]
    assert len(allowed) == len(set(allowed))
    assert needed_packages(extra) <= set(allowed)


def test_only_the_extra_chatterbox_brings_torch() -> None:
    assert "torch" in needed_packages("chatterbox")
    assert not {"torch", "librosa", "gradio"} & (needed_packages("preview"))


def test_without_its_pins_chatterbox_needs_the_same_packages() -> None:
    (unpinned,) = tomllib.loads((ROOT / ".ci" / "unpinned.toml").read_text())["dependency-metadata"]
    assert f"{unpinned['name']}=={unpinned['version']}" in EXTRAS["chatterbox"]
    needed, stated = (
        {canonicalize_name(Requirement(line).name) for line in lines}
        for lines in (metadata.requires(unpinned["name"]) or (), unpinned["requires-dist"])
    )
    assert stated == needed


def test_newest_torch_supports_the_rtx_50_series() -> None:
    assert min(pins("requirements-newest.txt")["torch"]) >= Version("2.7")


# --- The package ----------------------------------------------------------------------------------


def test_the_wheel_holds_the_web_page_and_the_manual(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("web", "docs"):
        assert {f"app/{folder}/{path.name}" for path in (ROOT / "app" / folder).iterdir()} <= held


# --- The image ------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), comments dropped and lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


def final_stage() -> list[tuple[str, str]]:
    steps = instructions()
    start = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    return steps[start:]


def only(name: str) -> str:
    (rest,) = [rest for instruction, rest in final_stage() if instruction == name]
    return rest


def environment() -> dict[str, str]:
    return dict(re.findall(r'(\w+)="?([^"\s]+)"?', only("ENV")))


def test_the_base_image_is_pinned_by_digest() -> None:
    pattern = r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu24\.04@sha256:[0-9a-f]{64}"
    stages = [rest.split(" AS ") for name, rest in instructions() if name == "FROM"]
    names = {stage[1] for stage in stages if len(stage) == 2}
    bases = {stage[0].replace("$TORCH", "pinned") for stage in stages} - names
    assert all(re.fullmatch(pattern, base) for base in bases)


@pytest.mark.parametrize(
    ("torch", "lock", "cuda"),
    [("pinned", "requirements.txt", 12), ("newest", "requirements-newest.txt", 13)],
)
def test_a_variant_has_packages_of_its_own_and_the_driver_for_them(
    torch: str, lock: str, cuda: int
) -> None:
    steps = instructions()
    start = steps.index(("FROM", f"base AS torch-{torch}"))
    assert steps[start + 1 : start + 3] == [
        ("ENV", f'NVIDIA_REQUIRE_CUDA="cuda>={cuda}.0"'),
        ("COPY", f".ci/{lock} /requirements.txt"),
    ]
    assert f"nvidia-cudnn-cu{cuda}" in pins(lock)


def test_image_has_the_pinned_torch_unless_overridden_in_the_build() -> None:
    steps = instructions()
    assert steps[0] == ("ARG", "TORCH=pinned")
    assert ("FROM", "torch-$TORCH AS packages") in steps
    assert final_stage()[0] == ("FROM", "torch-$TORCH")


@pytest.mark.covers("container hardening")
def test_the_service_is_not_root_and_its_command_is_the_projects() -> None:
    assert only("USER") == "1000:1000"
    assert json.loads(only("ENTRYPOINT")) == ["chatterbox-tts"] == list(PROJECT["scripts"])
    assert json.loads(only("CMD")) == ["serve"]
    assert only("STOPSIGNAL") == "SIGTERM"


def test_the_image_has_a_c_compiler_and_no_other_build_tool() -> None:
    (apt,) = [rest for name, rest in final_stage() if name == "RUN" and "apt-get" in rest]
    packages = re.search(r"--no-install-recommends ([a-z0-9 -]+?) *&&", apt)
    assert packages
    assert packages[1].split() == ["gcc", "libc6-dev", "python3", "python3-dev"]


@pytest.mark.covers("locked dependencies")
def test_every_package_is_installed_by_hash() -> None:
    installs = [rest for _, rest in instructions() if "pip install" in rest]
    assert len(installs) == 2
    assert all("--require-hashes" in run or "--no-deps --no-build" in run for run in installs)


@pytest.mark.covers("container hardening")
def test_everything_that_the_service_writes_has_a_writable_place() -> None:
    assert json.loads(only("VOLUME")) == ["/app/voices", "/app/preloaded-voices"]
    places = {
        name: value for name, value in environment().items() if re.search("HOME|CACHE|TMP", name)
    }
    assert len(places) == 7
    assert all(re.match(r"/(tmp|cache)(/|$)", value) for value in places.values())


def test_image_runs_the_real_model_on_all_gpus() -> None:
    assert ("ARG", "MODELS=chatterbox") in final_stage()
    wanted = {"MODEL": "$MODELS", "NVIDIA_VISIBLE_DEVICES": "all", "PORT": "8000"}
    assert wanted.items() <= environment().items()
    assert environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_image_holds_no_secret() -> None:
    for name, rest in instructions():
        if name in {"ARG", "ENV"}:
            assert not re.search("KEY|TOKEN|SECRET|PASSWORD", rest)


def excluded(path: str) -> bool:
    """Whether .dockerignore keeps `path` out of the build: the last rule that fits decides."""
    verdict = False
    parents = [path, *map(str, Path(path).parents)][:-1]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.removeprefix("!").removeprefix("**/")
        names = Path(path).parts if "**/" in line else parents
        if line and not line.startswith("#") and any(fnmatch(name, rule) for name in names):
            verdict = not line.startswith("!")
    return verdict


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", ".env", "voices/me.wav", "models/conds.pt", "tests/x.py"],
)
def test_build_context_excludes(path: str) -> None:
    assert excluded(path)


def test_build_context_has_all_copied_files() -> None:
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert not excluded(source)


def copy_as_docker(arguments: str, folder: Path) -> None:
    """COPY files into a folder, or the contents of a folder."""
    *sources, target = arguments.split()
    (folder / target).mkdir(exist_ok=True)
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, folder / target)


def build_weights(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the stage that downloads the weights, without Docker, in `folder`."""
    steps = instructions()
    start = steps.index(("FROM", "packages AS weights"))
    for name, rest in steps[start:]:
        if name == "RUN":
            script = rest
            break
        if name == "COPY":
            copy_as_docker(rest, folder)
    python = Path(sys.executable).parent
    return subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env={"PATH": f"{python}:{os.environ['PATH']}", "PYTHONSAFEPATH": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_weights_are_downloaded_unless_disabled_in_the_build(tmp_path: Path) -> None:
    for models in ("chatterbox", "turbo,multilingual"):
        (tmp_path / models).mkdir()
        tried = build_weights(
            tmp_path / models, DOWNLOAD_WEIGHTS="1", HF_HUB_OFFLINE="1", MODELS=models
        )
        assert tried.returncode != 0
        assert "StartupError: cannot reach the hub: HF_HUB_OFFLINE is set" in tried.stderr
    assert f"into {tmp_path / 'turbo,multilingual' / 'models' / 'turbo'} yourself" in tried.stderr

    (tmp_path / "without").mkdir()
    assert build_weights(tmp_path / "without", DOWNLOAD_WEIGHTS="0").returncode == 0
    assert list((tmp_path / "without" / "models").iterdir()) == []


class Ready(BaseHTTPRequestHandler):
    status: int

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/ready" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.covers("container hardening")
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
@pytest.mark.parametrize("port", ["{}", '"{}" # the default'])
def test_the_health_check_asks_whether_the_service_is_ready(
    service: HTTPServer, port: str, status: int, healthy: bool
) -> None:
    Ready.status = status
    _, _, command = only("HEALTHCHECK").partition("CMD ")
    python, *arguments = json.loads(command)
    assert python == "python"
    check = subprocess.run(
        [sys.executable, *arguments],
        env={"PORT": port.format(service.server_port), "http_proxy": "http://127.0.0.1:1"},
        check=False,
    )
    assert (check.returncode == 0) is healthy


# --- The workflows --------------------------------------------------------------------------------


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


@pytest.mark.covers("dependency audit")
@pytest.mark.parametrize(
    ("name", "triggers", "runs"),
    [
        ("ci.yml", {"pull_request", "workflow_call"}, "bash .ci/run"),
        ("nightly.yml", {"schedule", "workflow_dispatch"}, "bash .ci/nightly"),
        ("publish-docker.yml", {"push"}, ""),
        ("security.yml", {"push", "pull_request", "schedule"}, "bash .ci/audit"),
    ],
)
def test_a_workflow_may_only_read_and_ends_in_time(
    name: str, triggers: set[str], runs: str
) -> None:
    made = workflow(name)
    events = made[True]  # YAML 1.1 reads the key `on` as a boolean
    assert ({events} if isinstance(events, str) else {*events}) == triggers
    assert made["permissions"] == {"contents": "read"}
    assert "concurrency" in made
    (job,) = [job for job in made["jobs"].values() if "uses" not in job]
    assert job["timeout-minutes"] <= 120
    assert runs in [step.get("run", "") for step in [{}, *job["steps"]]]


def test_the_audit_keeps_its_sbom() -> None:
    (job,) = workflow("security.yml")["jobs"].values()
    assert job["steps"][-1]["with"]["path"] == "sbom.cdx.json"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").iterdir()), ids=str)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    ours = "./.github/workflows/"
    assert used
    assert all(name.startswith(ours) or re.search(r"@[0-9a-f]{40} # v", name) for name in used)


def test_a_push_is_published_once_its_tests_have_passed() -> None:
    jobs = workflow("publish-docker.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["publish"]["needs"] == "test"
    steps = jobs["publish"]["steps"]
    used = {step["uses"].split("@")[0]: step.get("with") for step in steps if "uses" in step}
    assert used["docker/login-action"] == {
        "username": "${{ vars.DOCKERHUB_USERNAME }}",
        "password": "${{ secrets.DOCKERHUB_TOKEN }}",
    }
    build = used["docker/build-push-action"]
    assert build["push"] is True
    commit, latest = build["tags"].splitlines()
    assert commit == "${{ env.IMAGE }}:${{ github.sha }}"
    assert "github.ref_name == github.event.repository.default_branch &&" in latest


FLAW = {"vulns": [{"id": "X-1", "fix_versions": ["2.8"]}]}
UNFIXED = {"vulns": [{"id": "X-2", "fix_versions": []}]}


@pytest.mark.covers("dependency audit")
@pytest.mark.parametrize(
    ("pinned", "newest", "says", "fails"),
    [
        ({"version": "2.6", "vulns": []}, {"version": "2.6", "vulns": []}, "1 packages", False),
        ({"version": "2.6", **FLAW}, {"version": "2.6", "vulns": []}, "torch 2.6: X-1", True),
        ({"version": "2.6", **FLAW}, {"version": "2.9", "vulns": []}, "(pinned by", False),
        ({"version": "2.6", "vulns": []}, {"version": "2.7", **FLAW}, "torch 2.7: X-1", True),
        ({"version": "2.6", **FLAW}, None, "torch 2.6: X-1", True),
        ({"version": "2.6", **UNFIXED}, None, "fixed nowhere yet", False),
        ({"skip_reason": "not found"}, None, "NOT AUDITED", False),
    ],
)
def test_audit_fails_on_vulnerabilities_with_a_fix(
    tmp_path: Path, pinned: dict[str, Any], newest: dict[str, Any] | None, says: str, fails: bool
) -> None:
    reports = tmp_path / "pinned.json", tmp_path / "newest.json"
    for report, package in zip(reports, (pinned, newest), strict=True):
        if package:
            report.write_text(json.dumps({"dependencies": [{"name": "torch", **package}]}))
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", *reports], capture_output=True, text=True
    )
    assert says in done.stdout
    assert done.stderr == ""
    assert done.returncode == fails


# --- .ci/run --------------------------------------------------------------------------------------

README = """<!-- test-command -->
```bash
mkdir -p .venv/bin && touch .venv/made && ls -A
ls -A .venv; pwd
false
echo unreached
```
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with .ci/run, an ignored and a deleted file; Chromium seems installed.

    The checks that install packages are empty.
    """
    for folder in ("bin", "tree/.ci"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin" / "chromium").touch(mode=0o755)
    tree = tmp_path / "tree"
    for name in ("run", "functions"):
        shutil.copy(ROOT / ".ci" / name, tree / ".ci")
    for name in ("first_command.py", "one_version.py", "requirements-test.txt"):
        (tree / ".ci" / name).touch()
    (tree / ".gitignore").write_text("ignored\n")
    (tree / "README.md").write_text(README)
    (tree / "deleted").touch()
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    subprocess.run(["git", "add", "."], cwd=tree, check=True)
    (tree / "deleted").unlink()
    (tree / "ignored").touch()
    return tree


def run_ci(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", ".ci/run"],
        cwd=checkout,
        env={"PATH": path, "TMPDIR": str(checkout.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def step_output(outcome: subprocess.CompletedProcess[str], name: str) -> list[str]:
    lines = outcome.stdout.splitlines()
    start = lines.index(f"=== {name}") + 1
    return lines[start : next(i for i in range(start, len(lines)) if lines[i][:3] in ("===", ""))]


def test_ci_runs_the_readmes_test_command_on_a_clean_copy_up_to_the_failing_step(
    checkout: Path,
) -> None:
    outcome = run_ci(checkout)
    assert outcome.returncode == 1
    make, show, failing, *_ = README.splitlines()[2:]
    assert step_output(outcome, make) == [".ci", ".gitignore", ".venv", "README.md"]
    *_, folder = step_output(outcome, show)
    assert Path(folder).parent.parent == checkout.parent
    assert not Path(folder).parent.exists()
    _, _, table = outcome.stdout.partition("\n=== steps, ")
    rows = [line.split(maxsplit=2) for line in table.splitlines()[1:]]
    assert all(seconds.isdecimal() and unit == "s" for seconds, unit, _ in rows)
    assert [name for _, _, name in rows][-2:] == [show, f"{failing}: FAILED"]
    assert "unreached" not in outcome.stdout


def test_ci_keeps_its_environment_for_one_run_at_a_time_and_the_same_lock(
    checkout: Path, tmp_path: Path
) -> None:
    caches = tmp_path / "cache" / "chatterbox-tts-ci"
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run_ci(checkout, **environment)
    (first,) = caches.iterdir()
    assert {path.name for path in (first / "tree").iterdir()} == {".venv"}

    (first / "tree" / ".venv" / "kept").touch()
    _, show, *_ = README.splitlines()[2:]
    assert "kept" in step_output(run_ci(checkout, **environment), show)
    with (first / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a run does that is using it
        *_, folder = step_output(run_ci(checkout, **environment), show)
    assert not folder.startswith(str(first))

    (first / "complete").unlink()
    assert "kept" not in step_output(run_ci(checkout, **environment), show)

    (checkout / ".ci" / "requirements-test.txt").write_text("other==1")
    run_ci(checkout, **environment)
    (second,) = caches.iterdir()
    assert first != second


def test_ci_fails_when_the_readme_has_no_test_command(checkout: Path) -> None:
    (checkout / "README.md").write_text("```bash\ntrue\n```\n")
    outcome = run_ci(checkout)
    assert outcome.returncode == 1
    assert "<!-- test-command -->" in outcome.stderr
