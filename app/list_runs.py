"""Lists the runs below a folder, compares some, or frees what they no longer need: ``python app/list_runs.py``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts app/ first on the path, where a file could shadow a package; the package to import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

from app.core.start import COMMAND_PACKAGES, require_packages  # noqa: E402

require_packages(COMMAND_PACKAGES)  # the table needs no torch

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="list_runs", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Validate the configuration, and list, compare or prune."""
    from app.config.load import validate
    from app.config.schema_commands import ListRunsConfig

    config = validate(cfg, ListRunsConfig)

    from app.run_list.show_runs import show_runs

    show_runs(config)


if __name__ == "__main__":
    run(main, "app.config.schema_commands:ListRunsConfig")
