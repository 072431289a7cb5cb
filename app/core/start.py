"""Start of every command: whether Python and its packages are there, before anything else is imported.

It imports the standard library only, and has no syntax that an older Python could not read.
"""

import sys
from importlib.util import find_spec

COMMAND_PACKAGES = ("hydra", "omegaconf", "pydantic", "rich")  # without which not even a check can be reported
_ALL_PACKAGES = (*COMMAND_PACKAGES, "numpy", "torch", "gymnasium", "tmrl")
_ANSWERED_AT_ONCE = (
    "-h",
    "--help",
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)


def require_packages(packages: tuple = _ALL_PACKAGES) -> None:
    """End the program with one sentence if Python is too old or a package is not installed."""
    if sys.version_info < (3, 10):  # noqa: UP036 (an older Python would only report a SyntaxError)
        sys.exit(f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old: this project needs 3.10 or newer.")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The Python package {missing[0]} is not installed in {sys.prefix}. Install this project's packages with "
            "make train, or as docs/install.md says; then activate them: source .venv/bin/activate (on Windows "
            ".venv\\Scripts\\activate)."
        )


def say_that_loading_takes_time(package: str = "PyTorch") -> None:
    """Show a word on a terminal while a package is imported: seconds, and on a busy machine up to a minute."""
    answered_at_once = any(word.startswith(_ANSWERED_AT_ONCE) for word in sys.argv[1:])
    if sys.stderr is not None and sys.stderr.isatty() and not answered_at_once:
        print(f"Loading {package} ...", file=sys.stderr, flush=True)
