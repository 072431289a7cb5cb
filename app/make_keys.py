"""Command that makes the keys and certificates for ``network.tls=true``: ``python app/make_keys.py [folder=keys]``."""

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


@hydra.main(config_path="../conf", config_name="make_keys", execution_whitelist=[])
@as_user_errors
def main(cfg: DictConfig) -> None:
    """Make the keys, and print where they must be copied."""
    from app.config.load import validate
    from app.config.schema_commands import MakeKeysConfig

    config = validate(cfg, MakeKeysConfig)

    from app.core.console import make_console, print_line
    from app.distributed.certificates import make_keys

    server, client = make_keys(Path(config.folder))
    console = make_console()
    print_line(console, f"{server}/  belongs on the machine with role=server, and nowhere else", "green")
    print_line(console, f"{client}/  belongs on every machine with role=worker or role=trainer", "green")
    print_line(console, f"Copy them securely, then add network.tls=true network.keys_dir={config.folder} everywhere.")
    print_line(console, "Anybody with client/key.pem and the password can take part: make new keys if either is lost.")


if __name__ == "__main__":
    run(main, "app.config.schema_commands:MakeKeysConfig")
