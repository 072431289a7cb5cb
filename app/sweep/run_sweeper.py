"""Hydra sweeper of a plain ``-m``: Hydra's basic sweeper, followed by a table of the runs.

Every command of ``app/train.py`` imports this module, even one that only shows its configuration.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # the class that hydra/sweeper=basic names
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import read_write

from app.core.atomic_files import make_folder
from app.core.errors import UserError


class RunSweeper(BasicSweeper):
    """Runs every combination of the swept values, and compares the runs at the end, however it comes.

    ``conf/hydra/sweeper/basic.yaml`` selects it; ``app/train.py`` registers it as a plugin of Hydra.

    Args:
        jobs: Number of jobs, for the configuration of the jobs only.
        swept: Keys that differ between them, for the same.
        max_batch_size: Argument of Hydra's ``BasicSweeper``.
        params: The same: values of keys, as on the command line.
        settings: Keys of another sweeper, which a search space brings along; ``sweep`` refuses them.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        jobs: int | None = None,
        swept: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(max_batch_size, params)
        self._settings = settings

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs, and print the table of those that left a run folder.

        Args:
            arguments: Overrides of the command line.

        Returns:
            What Hydra's sweeper returns: the results of the jobs, in batches.

        Raises:
            UserError: There is a search space, which this sweeper does not search; or no job could run, because of
                its values, its device, or the folder of the runs.
        """
        if self._settings:
            from app.config.multirun import SEARCH_SPACE_ALONE  # needs pydantic, which --cfg does not

            raise UserError(SEARCH_SPACE_ALONE)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
        jobs = self._jobs(overrides)
        self._require_devices(jobs)
        self._configure_jobs(len(jobs), swept)
        _require_writable(Path(self.config.hydra.sweep.dir))
        try:
            return super().sweep(arguments)
        finally:
            self._compare(jobs, swept)

    def _jobs(self, overrides: list[Override]) -> list[list[str]]:
        """Return the overrides of every job."""
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UserError(
                    f"{override.input_line}: an interval has no list of values to run. Write them one by one, such as "
                    "agent.gamma=0.99,0.995, or search it with hydra/sweeper=optuna."
                )
            if override.is_sweep_override() and not list(override.sweep_string_iterator()):
                raise UserError(f"{override.input_line}: stands for no value, so there is nothing to run. Correct it.")
        return [job for batch in self.split_arguments(overrides, self.max_batch_size) for job in batch]

    def _require_devices(self, jobs: Sequence[Sequence[str]]) -> None:
        """Refuse a device that this machine does not have before any job starts; a cluster has its own."""
        from app.config.multirun import runs_here

        named = [part[len("device=") :] for job in jobs for part in job if part.startswith("device=")]
        for device in dict.fromkeys(named or [str(self.config.device)]):
            if runs_here(self.config.hydra.launcher) and re.fullmatch(r"cuda(:\d+)?", device):
                from app.training.setup import resolve_device  # torch takes seconds to import

                resolve_device(device)

    def _configure_jobs(self, jobs: int, swept: list[str]) -> None:
        """Tell the jobs; Hydra composes each anew, and refuses one whose sweeper differs from this one."""
        from app.config.multirun import expand_sweep_dir, quoted

        hydra = self.config.hydra
        with read_write(hydra), read_write(hydra.sweeper), read_write(hydra.overrides.hydra):
            hydra.sweeper.jobs, hydra.sweeper.swept = jobs, swept
            hydra.overrides.hydra.extend([f"hydra.sweeper.jobs={jobs}", f"hydra.sweeper.swept=[{','.join(swept)}]"])
            if expand_sweep_dir(hydra):
                hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(hydra.sweep.dir)}")

    def _compare(self, jobs: Sequence[Sequence[str]], swept: Sequence[str]) -> None:
        from app.config.load import ConfigError, load
        from app.config.multirun import without_hydra
        from app.config.run_names import name_job, shown_overrides
        from app.core.console import make_console
        from app.sweep.run_table import ComparedRun, print_runs

        runs = []
        for overrides in jobs:
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            cfg = without_hydra(cfg)
            try:
                config = load(cfg)
            except ConfigError:  # the job has said so
                continue
            folder = Path(config.runs_dir) / name_job(config, cfg, overrides, swept)
            shown = shown_overrides(overrides, swept)
            seed = [override for override in shown if override.startswith("seed=")]
            settings = [override for override in shown if override not in seed]
            runs.append(ComparedRun(" · ".join(settings), " · ".join(seed), folder))
        print_runs(runs, make_console())


def _require_writable(folder: Path) -> None:
    """Refuse a folder in which neither Hydra nor a job could write anything."""
    try:
        make_folder(folder)
        reason = None if os.access(folder, os.W_OK) else "it is read-only"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        raise UserError(
            f"runs_dir = {folder}: the folder cannot be made or written ({reason}). Make it writable, or choose "
            "another runs_dir."
        )
