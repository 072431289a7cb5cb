"""Writes the results of a study into its folder, at any time: ``python app/sweep_report.py study=<name>``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts app/ first on the path, where a file could shadow a package; the package to import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

from app.core.start import require_packages, say_that_loading_takes_time  # noqa: E402

require_packages()
if __name__ == "__main__":  # not in its worker processes
    say_that_loading_takes_time("Optuna")

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="sweep_report", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Validate the configuration, find the study, and write its results."""
    from app.config.load import validate
    from app.config.run_paths import require_study
    from app.config.schema_commands import SweepReportConfig

    config = validate(cfg, SweepReportConfig)
    require_study(Path(config.sweeps_dir), config.study, config.storage)  # before Optuna is imported

    from app.core.console import make_console
    from app.sweep.report.writer import write_results
    from app.sweep.study_folder import find_study

    folder, study = find_study(Path(config.sweeps_dir), config.study, config.storage)
    write_results(folder, study).print(make_console())


if __name__ == "__main__":
    run(main, "app.config.schema_commands:SweepReportConfig")
