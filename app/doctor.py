"""Says what this machine can do and what is missing: ``python app/doctor.py [key=value ...]``, with train.py's keys."""

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

# Without these nothing below can be imported, not even to say so.
if sys.version_info < (3, 10):  # noqa: UP036 (whoever has an older one should read more than a SyntaxError)
    sys.exit(f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old: this project needs 3.10 or newer.")
if ABSENT := [name for name in ("hydra", "omegaconf", "pydantic", "rich") if find_spec(name) is None]:
    sys.exit(
        f"The Python package {ABSENT[0]} is not installed in {sys.prefix}. Install this project's packages with make "
        "train, or as docs/install.md says; then use .venv/bin/python (on Windows .venv\\Scripts\\python)."
    )

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import in_words, run  # noqa: E402

_OF_SWEEPS = ("-m", "--multirun", "hydra/sweeper=", "hydra.mode=", "sweep=")


@hydra.main(config_path="../conf", config_name="doctor", execution_whitelist=[])
@in_words
def main(cfg: DictConfig) -> None:
    """Validate the configuration and say what is there; exit code 1 if something that it needs is not."""
    from app.config.load import validate
    from app.config.schema import Config

    config = validate(cfg, Config)  # its rules between keys are among the findings

    from app.diagnosis.report import report
    from app.reporting.formatting import make_console

    if not report(config, make_console()):
        sys.exit(1)


if __name__ == "__main__":
    if of_sweeps := [word for word in sys.argv[1:] if word.startswith(_OF_SWEEPS)]:
        sys.exit(f"The doctor examines a single run: leave out {' '.join(of_sweeps)}.")
    run(main, "Config")
