"""Trains what a search found again, on seeds that it did not see: ``python app/validate.py study=<name> top_k=3``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import in_words, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="validate", execution_whitelist=[])
@in_words
def main(cfg: DictConfig) -> None:
    """Validate the configuration, retrain, and compare."""
    from app.config.load import validate
    from app.config.schema import ValidateConfig

    config = validate(cfg, ValidateConfig)

    from app.validation.validation import validate_study

    validate_study(config)


if __name__ == "__main__":
    run(main, "ValidateConfig")
