"""Hydra sweeper of ``app/lab.py``: hands the runs of a lab that are not done to the launcher.

Every command of ``app/lab.py`` imports this module, even one that only shows its configuration.
"""

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LabSweeper(Sweeper):
    """Plans the runs of a lab, launches those that are not done, and writes the evidence.

    ``conf/hydra/sweeper/lab.yaml`` selects it; ``app/lab.py`` registers it as a plugin of Hydra.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the launcher needs; nothing is made before ``sweep``."""
        self._context = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def sweep(self, arguments: list[str]) -> None:
        """Train the runs that are not done, and write the evidence and its report.

        Args:
            arguments: Overrides of the command line.

        Raises:
            UserError: The lab cannot start, or runs have failed; the message says what to do.
            KeyboardInterrupt: Ctrl-C; the runs are saved and the evidence is written.
            SystemExit: The process was terminated; the runs are saved and the evidence is written.
        """
        from app.ablation.lab_session import run_lab

        run_lab(self._context, arguments)
