"""Evaluates the best policy of a run: ``python app/evaluate.py run=runs/<name> tracks=[101,102]``."""

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


@hydra.main(config_path="../conf", config_name="evaluate", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> float:
    """Validate the configuration, evaluate, and return the mean deterministic return."""
    from app.config.load import validate
    from app.config.run_paths import require_run_or_bundle
    from app.config.schema_commands import EvaluateConfig

    config = validate(cfg, EvaluateConfig)
    require_run_or_bundle(config.run, config.bundle)  # before PyTorch is imported

    from app.training.evaluate_run import evaluate_run

    return evaluate_run(config)


if __name__ == "__main__":
    run(main, "app.config.schema_commands:EvaluateConfig")
