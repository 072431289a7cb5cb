"""Trains an agent: ``python app/train.py [key=value ...]``; ``--help`` lists the groups of the configuration."""

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
from hydra.core.plugins import Plugins  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from app.config.cli import as_user_errors, run  # noqa: E402
from app.sweep.run_sweeper import RunSweeper  # noqa: E402
from app.sweep.study_sweeper import StudySweeper  # noqa: E402

Plugins.instance().register(RunSweeper)  # hydra/sweeper=basic names it
Plugins.instance().register(StudySweeper)  # hydra/sweeper=optuna names it
WHITELIST = ["app.sweep.session.assign_trial"]  # what a configuration may call


@hydra.main(config_path="../conf", config_name="config", execution_whitelist=WHITELIST)
@as_user_errors
def main(cfg: DictConfig) -> float:
    """Validate the configuration, train, and return the objective."""
    # Imported here so that --help and --cfg answer at once: importing torch takes seconds.
    from app.config.load import load
    from app.config.multirun import Job, config_of_job, config_of_run, enter_launch_folder

    job = Job.current()
    if job is not None:
        enter_launch_folder()
    if job is not None and job.trial is not None:
        from app.sweep.trial import run_job

        return run_job(lambda: config_of_job(load(cfg), cfg, job), job.trial)

    config = load(cfg)
    config = config_of_run(config, cfg) if job is None else config_of_job(config, cfg, job)

    from app.core.console import make_console, print_line
    from app.core.output import prefixed_output
    from app.launch import run_role

    if job is None:
        return run_role(config)
    print_line(make_console(), job.title, "cyan")
    with prefixed_output(job.line_prefix):
        return run_role(config, propagate_interrupt=True)


if __name__ == "__main__":
    run(main, "app.config.schema:Config")
