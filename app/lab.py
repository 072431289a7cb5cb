"""Trains every arm of a lab on every seed and reports: ``python app/lab.py lab=smoke [arms=[...]] [seeds=[...]]``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts app/ first on the path, where a file could shadow a package; the package to import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

from app.core.start import require_packages, say_that_loading_takes_time  # noqa: E402

require_packages()
if __name__ == "__main__":  # not in its worker processes
    say_that_loading_takes_time()

import hydra  # noqa: E402
from hydra.core.plugins import Plugins  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.ablation.lab_sweeper import LabSweeper  # noqa: E402
from app.config.cli import as_user_errors, run  # noqa: E402

Plugins.instance().register(LabSweeper)  # conf/lab.yaml names it


@hydra.main(config_path="../conf", config_name="lab", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Train one run of the lab: the sweeper calls this for every run that is not done."""
    from app.ablation.lab_job import run_job
    from app.config.load import load
    from app.config.multirun import enter_launch_folder
    from app.config.schema_lab import LabConfig

    enter_launch_folder()
    run_job(load(cfg, LabConfig))


if __name__ == "__main__":
    run(main, "app.config.schema_lab:LabConfig")
