"""Checks this machine for a run: ``python app/doctor.py [key=value ...]``, with the keys of ``app/train.py``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts app/ first on the path, where a file could shadow a package; the package to import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

from app.core.start import COMMAND_PACKAGES, require_packages  # noqa: E402

require_packages(COMMAND_PACKAGES)  # it reports the others itself

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402

_SWEEP_OPTIONS = ("-m", "--multirun", "hydra/sweeper=", "hydra.mode=", "sweep=")


@hydra.main(config_path="../conf", config_name="doctor", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Validate the configuration and report the checks; exit code 1 if something that the run needs is missing."""
    from app.config.load import validate
    from app.config.multirun import config_of_run
    from app.config.schema import Config

    config = config_of_run(validate(cfg, Config), cfg)  # its rules between keys are among the findings

    from app.core.console import make_console
    from app.diagnostics.checkup import run_checkup

    if not run_checkup(config, make_console()):
        sys.exit(1)


if __name__ == "__main__":
    if sweep_options := [word for word in sys.argv[1:] if word.startswith(_SWEEP_OPTIONS)]:
        sys.exit(f"The doctor examines a single run: leave out {' '.join(sweep_options)}.")
    run(main, "app.config.schema:Config")
