"""Create `.venv` and install the pinned packages with progress messages.

    python deploy/install.py base    # packages of the asset graph, the demo and the servers
    python deploy/install.py all     # also the transformers, the tests and the linters

An interrupted installation can be restarted. pip's output is written to `.venv/install.log`, and printed if pip fails.
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
"""Files touched after an installation; `make` compares them with the requirements."""
EXTRAS = {"base": "", "all": "[dev,text]"}
REPLACED = ["xgboost", "nvidia-nccl-cu12"]
"""Packages of older environments that share files with a current package."""
STARTED = [
    "dagster_webserver.cli",
    "dagster._daemon.cli",
    "dagster._cli.api",
    "dagster._cli.code_server",
    "mlflow.server.fastapi_app",
]
"""Modules of other packages that `make up` starts."""
EVERY_S = 10
"""Seconds between two progress messages."""
LINES_SHOWN = 30


def main(what: str) -> int:
    """Install the packages; return the exit status."""
    started = time.monotonic()
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        return report_failure("Python 3.11 or 3.12 is needed: make setup PYTHON=/path/to/python3.11")
    python = VENV / "bin" / "python"
    if not has_pip(python):
        say(f"create {VENV.name} with {sys.executable}")
        process = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
        if process.returncode:
            return report_failure(process.stdout + process.stderr)
    for stamp in STAMPS[what]:
        stamp.unlink(missing_ok=True)
    packages = site_packages(python)
    if list(packages.glob("xgboost-[0-9]*.dist-info")):
        pip(python, "uninstall", "-y", *REPLACED, "xgboost-cpu")
    say(
        f"install the pinned packages, {'the tests and linters' if what == 'all' else 'without tests and linters'} "
        f"(pip's output: {LOG.relative_to(ROOT)})"
    )
    # Most modules are never imported; the imported ones are compiled below.
    status = pip(
        python, "install", "--no-compile", "-c", "constraints.txt", "-e", f".{EXTRAS[what]}", packages=packages
    )
    if status:
        output = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
        return report_failure("\n".join([*output[-LINES_SHOWN:], f"pip failed; its complete output is in {LOG}"]))
    say("compile the imported modules")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with LOG.open("ab") as log:
        compiling = [python, __file__, "compile"]
        subprocess.run(compiling, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    for stamp in STAMPS[what]:
        stamp.touch()
    say(f"environment ready after {time.monotonic() - started:.0f} s: {installed(packages)} packages in {VENV.name}")
    return 0


def has_pip(python: Path) -> bool:
    """Return whether an environment is complete; an interrupted one is not."""
    command = [python, "-c", "import pip"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def site_packages(python: Path) -> Path:
    """Return the site-packages folder of an environment."""
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def installed(packages: Path) -> int:
    """Return the number of installed packages."""
    return len(list(packages.glob("*.dist-info")))


def pip(python: Path, *arguments: str, packages: Path | None = None) -> int:
    """Run pip with its output in the log, and progress messages if it installs; return its exit status."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with LOG.open("ab") as log:
        start, started, shown_at = log.tell(), time.monotonic(), time.monotonic()
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
                    say(progress(output, 0, time.monotonic() - started))
                    shown_at = time.monotonic()
                if packages is not None and time.monotonic() - shown_at >= EVERY_S:
                    unpacked = installed(packages) - before if before is not None else 0
                    say(progress(output, unpacked, time.monotonic() - started))
                    shown_at = time.monotonic()
        except KeyboardInterrupt:
            process.wait()
            raise
        return process.returncode


def progress(output: str, unpacked: int, seconds: float) -> str:
    """Return a progress message from pip's output.

    Args:
        output: pip's output so far.
        unpacked: number of packages unpacked so far.
        seconds: seconds since pip started.
    """
    unpacking = re.search(r"^Installing collected packages: (.*)$", output, re.MULTILINE)
    if unpacking:
        return f"unpack: {unpacked} of {len(unpacking[1].split(','))} new packages, {seconds:.0f} s"
    names = set(re.findall(r"^(?:Collecting|Requirement already satisfied:) ([\w.-]+)", output, re.MULTILINE))
    return f"look up and download: {len(names)} packages so far, {seconds:.0f} s"


def modules() -> list[str]:
    """Return the modules of other packages that the project imports (also lazily) or `make up` starts."""
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
    """Compile the imported modules by importing them; modules of missing extras are skipped."""
    for name in modules():
        with contextlib.suppress(Exception):  # a missing module is reported when it is used
            importlib.import_module(name)


def say(what: str) -> None:
    """Print a line to the terminal."""
    print(f"==> {what}", flush=True)


def report_failure(what: str) -> int:
    """Print an error message; return the exit status 1."""
    print(what.rstrip(), file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(compile_imported() if sys.argv[1] == "compile" else main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command to continue")
