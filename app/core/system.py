"""The machine, its software and its folders."""

import atexit
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "numpy", "gymnasium", "tmrl", "hydra-core", "safetensors")  # that can change a result
_GIT_TIMEOUT_S = 5.0


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_matplotlib_out_of_home() -> None:
    """Let matplotlib keep its caches in a temporary folder instead of the home folder; call before importing it."""
    if "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)


def hide_greeting_of_pygame() -> None:
    """Keep pygame from greeting when it is imported."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


def silence_pygame() -> None:
    """Keep pygame from greeting, and SDL from a line about a missing XDG_RUNTIME_DIR when it draws."""
    hide_greeting_of_pygame()
    if os.name == "posix" and "XDG_RUNTIME_DIR" not in os.environ:
        os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="runtime-")
        atexit.register(shutil.rmtree, os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


def occupied_bytes(folder: Path) -> int:
    """Return the bytes that all files below a folder occupy on the disk, links not followed; 0 if there is none."""
    return sum(file_bytes(os.path.join(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def file_bytes(path: str | Path) -> int:
    """Return the bytes that a file occupies on the disk, which are less than its length where it has holes.

    A link is not followed; a file that is gone, such as a temporary one that has got its name since, occupies 0.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


@functools.cache
def environment() -> dict[str, str]:
    """Return what a result may depend on beside the configuration: system, processor, Python, packages, and commit."""
    found = {
        "system": platform.platform(),
        "processor": f"{_processor()}, {usable_cores()} cores",
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if commit := _commit():
        found["commit"] = commit
    return found


def _processor() -> str:
    """Return the model of the processor as far as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, UnicodeDecodeError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of this program, with "-dirty" for changed files; None outside of a repository."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
