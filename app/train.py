"""Trains an agent: ``python app/train.py [key=value ...]``; ``--help`` lists what can be chosen."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import run  # noqa: E402


@hydra.main(config_path="../conf", config_name="config", execution_whitelist=[])
def main(cfg: DictConfig) -> float:
    """Validate the configuration, train, and return the objective."""
    # Imported here so that --help and --cfg answer at once: torch alone takes seconds.
    from app.config.load import load

    config = load(cfg)

    from app.training.run import train

    return train(config)


if __name__ == "__main__":
    run(main, "Config")
