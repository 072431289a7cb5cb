"""Trains an agent: ``python app/train.py [key=value ...]``; ``--help`` lists what can be chosen."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python put app/ first, where a file could shadow a package; what we import is `app` itself.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (ROOT, ROOT / "app"))]

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.command import in_words, run  # noqa: E402

WHITELIST = ["app.sweep.callback.StudyCallback", "app.sweep.launch.enrol"]  # what a configuration may call


@hydra.main(config_path="../conf", config_name="config", execution_whitelist=WHITELIST)
@in_words
def main(cfg: DictConfig) -> float:
    """Validate the configuration, train, and return the objective."""
    # Imported here so that --help and --cfg answer at once: torch alone takes seconds.
    from app.config.job import Job, as_job, go_to_launch
    from app.config.load import load

    config, job = load(cfg), Job.current()
    if job is not None:
        go_to_launch()
        config = as_job(config, cfg, job)

    if job is not None and job.trial is not None:
        from app.sweep.trial import run_job

        return run_job(config, job.trial)

    from app.roles import play

    return play(config, one_of_many=job is not None)


if __name__ == "__main__":
    run(main, "Config")
