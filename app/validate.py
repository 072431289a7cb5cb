"""Trains the best trials of a study again, on other seeds: ``python app/validate.py study=<name> top_k=3``."""

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
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="validate", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Validate the configuration, train the candidates again, and compare them."""
    from app.config.load import validate
    from app.config.rules import require_unique
    from app.config.run_paths import require_study
    from app.config.schema_commands import ValidateConfig

    config = validate(cfg, ValidateConfig)
    require_unique("seeds", config.seeds)
    require_study(Path(config.sweeps_dir), config.study, config.storage)  # before PyTorch is imported

    from app.sweep.validation.validate_study import validate_study

    validate_study(config)


if __name__ == "__main__":
    run(main, "app.config.schema_commands:ValidateConfig")
