"""The machine and its folders: usable cores, and caches that stay out of the home folder."""

import atexit
import os
import shutil
import tempfile


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_matplotlib_out_of_home() -> None:
    """Let matplotlib keep its caches in a temporary folder instead of the home folder; call before importing it."""
    if "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
