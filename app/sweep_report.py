"""Writes the results of a study into its folder, at any time: ``python app/sweep_report.py study=<name>``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import in_words, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="sweep_report", execution_whitelist=[])
@in_words
def main(cfg: DictConfig) -> None:
    """Validate the configuration, find the study, and write its results."""
    from app.config.load import validate
    from app.config.schema import SweepReportConfig

    config = validate(cfg, SweepReportConfig)

    from app.reporting.formatting import make_console
    from app.sweep.find import find_study
    from app.sweep.results import write_results

    folder, study = find_study(Path(config.sweeps_dir), config.study, config.storage)
    write_results(folder, study).tell(make_console())


if __name__ == "__main__":
    run(main, "SweepReportConfig")
