"""Exports the best policy of a run for use elsewhere: ``python app/export.py run=runs/<name>``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import in_words, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="export", execution_whitelist=[])
@in_words
def main(cfg: DictConfig) -> None:
    """Validate the configuration, and export."""
    from app.config.load import validate
    from app.config.schema import ExportConfig

    config = validate(cfg, ExportConfig)

    from app.export_bundle.export import export

    export(config)


if __name__ == "__main__":
    run(main, "ExportConfig")
