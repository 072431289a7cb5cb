"""Checks this machine for a run: ``python app/doctor.py [key=value ...]``, with the keys of ``app/train.py``."""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts app/ first on the path, where a file could shadow a package; the package to import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

# Without these, nothing below can be imported, not even to report it.
if sys.version_info < (3, 10):  # noqa: UP036 (an older Python would only report a SyntaxError)
    sys.exit(f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old: this project needs 3.10 or newer.")
if MISSING := [name for name in ("hydra", "omegaconf", "pydantic", "rich") if find_spec(name) is None]:
    sys.exit(
        f"The Python package {MISSING[0]} is not installed in {sys.prefix}. Install this project's packages with make "
        "train, or as docs/install.md says; then use .venv/bin/python (on Windows .venv\\Scripts\\python)."
    )

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402

_SWEEP_OPTIONS = ("-m", "--multirun", "hydra/sweeper=", "hydra.mode=", "sweep=")


@hydra.main(config_path="../conf", config_name="doctor", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Validate the configuration and report the checks; exit code 1 if something that the run needs is missing."""
    from app.config.load import validate
    from app.config.schema import Config

    config = validate(cfg, Config)  # its rules between keys are among the findings

    from app.core.console import make_console
    from app.diagnostics.checkup import run_checkup

    if not run_checkup(config, make_console()):
        sys.exit(1)


if __name__ == "__main__":
    if sweep_options := [word for word in sys.argv[1:] if word.startswith(_SWEEP_OPTIONS)]:
        sys.exit(f"The doctor examines a single run: leave out {' '.join(sweep_options)}.")
    run(main, "app.config.schema:Config")
