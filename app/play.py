"""Drives the simulator by hand, in a window: ``python app/play.py ghost=runs/<name>``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts app/ first on the path, where a file could shadow a package; the package to import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

from app.core.start import require_packages  # noqa: E402

require_packages()

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="play", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Validate the configuration, and drive."""
    from app.config.load import validate
    from app.config.schema_commands import PlayConfig

    config = validate(cfg, PlayConfig)

    from app.driving_game.game import play

    play(config)


if __name__ == "__main__":
    run(main, "app.config.schema_commands:PlayConfig")
