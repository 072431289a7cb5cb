"""Makes the keys and certificates for ``network.tls=true``: ``python app/make_keys.py [folder=keys]``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import in_words, run  # noqa: E402


@hydra.main(config_path="../conf", config_name="make_keys", execution_whitelist=[])
@in_words
def main(cfg: DictConfig) -> None:
    """Validate the configuration, make the keys, and say where they belong."""
    from app.config.load import validate
    from app.config.schema import MakeKeysConfig

    config = validate(cfg, MakeKeysConfig)

    from app.network.certificates import make_keys
    from app.reporting.formatting import make_console, tell

    server, client = make_keys(Path(config.folder))
    console = make_console()
    tell(console, f"{server}/  stays on, or goes to, the machine with role=server, and nowhere else", "green")
    tell(console, f"{client}/  goes to every machine with role=worker or role=trainer", "green")
    tell(console, f"Copy them over a safe way, then add network.tls=true network.keys_dir={config.folder} everywhere.")
    tell(console, "Who has client/key.pem and the password can take part; make new keys if it gets lost.")


if __name__ == "__main__":
    run(main, "MakeKeysConfig")
