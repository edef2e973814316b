"""Make `.venv` and install the pinned packages into it, saying what happens meanwhile.

    python deploy/install.py base    # what the graph, the demo and the servers need
    python deploy/install.py all     # and the transformers, the tests and the linters

It can be interrupted and started again. The output of pip goes to `.venv/install.log`, and to the terminal if it fails.
"""

import ast
import contextlib
import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "install.log"
STAMPS = {"base": [VENV / ".installed"], "all": [VENV / ".installed", VENV / ".installed-all"]}
"""Files that are as new as the environment; `make` compares them with the requirements."""
EXTRAS = {"base": "", "all": "[dev,text]"}
REPLACED = ["xgboost", "nvidia-nccl-cu12"]
"""Packages an older environment may hold that write over the files of one of today's."""
STARTED = [
    "dagster_webserver.cli",
    "dagster._daemon.cli",
    "dagster._cli.api",
    "dagster._cli.code_server",
    "mlflow.server.fastapi_app",
]
"""What `make up` starts beside the project's own modules."""
EVERY_S = 10
"""Seconds between two sentences."""
LINES_SHOWN = 30


def main(what: str) -> int:
    """Install and return the exit status."""
    began = time.monotonic()
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        return complain("Python 3.11 or 3.12 is needed: make setup PYTHON=/path/to/python3.11")
    python = VENV / "bin" / "python"
    if not has_pip(python):
        say(f"make {VENV.name} with {sys.executable}")
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
        if made.returncode:
            return complain(made.stdout + made.stderr)
    for stamp in STAMPS[what]:
        stamp.unlink(missing_ok=True)
    packages = site_packages(python)
    if list(packages.glob("xgboost-[0-9]*.dist-info")):
        pip(python, "uninstall", "-y", *REPLACED, "xgboost-cpu")
    say(
        f"install the pinned packages, {'the tests and linters' if what == 'all' else 'without tests and linters'} "
        f"(pip's own words: {LOG.relative_to(ROOT)})"
    )
    # Most of what the packages hold is never imported; what is, is compiled below.
    status = pip(
        python, "install", "--no-compile", "-c", "constraints.txt", "-e", f".{EXTRAS[what]}", packages=packages
    )
    if status:
        output = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
        return complain("\n".join([*output[-LINES_SHOWN:], f"pip failed; its whole output is in {LOG}"]))
    say("compile what the project imports")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with LOG.open("ab") as log:
        compiling = [python, __file__, "compile"]
        subprocess.run(compiling, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    for stamp in STAMPS[what]:
        stamp.touch()
    say(f"environment ready after {time.monotonic() - began:.0f} s: {installed(packages)} packages in {VENV.name}")
    return 0


def has_pip(python: Path) -> bool:
    """Return whether an environment is whole, which one that was interrupted is not."""
    tried = [python, "-c", "import pip"]
    return python.exists() and subprocess.run(tried, capture_output=True, check=False).returncode == 0


def site_packages(python: Path) -> Path:
    """Return where an environment's packages lie."""
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())


def installed(packages: Path) -> int:
    """Return how many packages are there."""
    return len(list(packages.glob("*.dist-info")))


def pip(python: Path, *arguments: str, packages: Path | None = None) -> int:
    """Run pip with its output in the log, showing progress if it installs; return its exit status."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with LOG.open("ab") as log:
        start, began, shown_at = log.tell(), time.monotonic(), time.monotonic()
        process = subprocess.Popen(
            [python, "-m", "pip", *arguments], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            before = None
            while process.poll() is None:
                time.sleep(0.2)
                output = LOG.read_bytes()[start:].decode("utf-8", errors="replace")
                if before is None and "\nInstalling collected packages:" in output and packages is not None:
                    before = installed(packages)
                    say(progress(output, 0, time.monotonic() - began))
                    shown_at = time.monotonic()
                if packages is not None and time.monotonic() - shown_at >= EVERY_S:
                    there = installed(packages) - before if before is not None else 0
                    say(progress(output, there, time.monotonic() - began))
                    shown_at = time.monotonic()
        except KeyboardInterrupt:
            process.wait()
            raise
        return process.returncode


def progress(output: str, there: int, seconds: float) -> str:
    """Return a sentence about how far pip is.

    Args:
        output: what pip has printed so far.
        there: packages that were not there when it began to unpack.
        seconds: since it started.
    """
    unpacking = re.search(r"^Installing collected packages: (.*)$", output, re.MULTILINE)
    if unpacking:
        return f"unpack: {there} of {len(unpacking[1].split(','))} new packages, {seconds:.0f} s"
    names = set(re.findall(r"^(?:Collecting|Requirement already satisfied:) ([\w.-]+)", output, re.MULTILINE))
    return f"look up and download: {len(names)} packages so far, {seconds:.0f} s"


def modules() -> list[str]:
    """Return every module of a package that the project imports, also inside a function, and what `make up` starts."""
    names = set(STARTED)
    for path in [*(ROOT / "btc_assets").rglob("*.py"), *(ROOT / "serve").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    ours_or_pythons = sys.stdlib_module_names | {"btc_assets", "serve"}
    return sorted(name for name in names if name.partition(".")[0] not in ours_or_pythons)


def compile_imported() -> None:
    """Import what the project imports, which leaves it compiled; what an extra would bring is passed over."""
    for name in modules():
        with contextlib.suppress(Exception):  # the import reports the reason when it is needed
            importlib.import_module(name)


def say(what: str) -> None:
    """Print a line to the terminal."""
    print(f"==> {what}", flush=True)


def complain(what: str) -> int:
    """Print why it failed, and return the exit status."""
    print(what.rstrip(), file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(compile_imported() if sys.argv[1] == "compile" else main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command to continue")
