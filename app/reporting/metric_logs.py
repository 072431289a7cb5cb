"""Logs of metrics beside ``metrics.jsonl``: TensorBoard and Weights & Biases, each imported only if it is asked for."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.config.key_effects import can_change_learning
from app.config.schema import Config, WandbConfig
from app.core.atomic_files import atomic_write
from app.reporting.metrics import MetricLog, grouped_name
from app.runs.fingerprint import FlatDict, flatten
from app.runs.run_folder import RunFolder

# Result of a run that the tab HPARAMS and the table of Weights & Biases show beside its hyperparameters.
FIGURES = (
    "objective", "lap_share_det", "laps_det", "lap_time_det", "lap_time_ratio_det", "return_test_det",
    "return_test_stoch", "best_epoch", "updates", "env_steps", "wall_s",
)  # fmt: skip
_PATHS = ("training.demonstrations",)  # settings of this machine among them
_COUNTERS = ("epoch", "updates")  # straight lines, which TensorBoard has as its horizontal axis
_FINAL = "final"  # group of the figures
_INIT_S, _FINISH_S = 30, 60  # seconds that Weights & Biases may keep a run waiting when it begins and when it ends


def metric_logs(folder: RunFolder, config: Config, after: int) -> dict[str, Callable[[], MetricLog]]:
    """Return the functions that open the logs that a run asks for, by their names in messages.

    Args:
        folder: Folder of the run.
        config: Configuration of the run.
        after: Updates of all completed epochs.
    """
    settings = hyperparameters(config)
    logs: dict[str, Callable[[], MetricLog]] = {}
    if config.logger.tensorboard:
        logs["TensorBoard"] = lambda: TensorBoardLog(folder.tensorboard, after, settings)
    if (wandb := config.logger.wandb) is not None:
        logs["Weights & Biases"] = lambda: WandbLog(folder, wandb, settings)
    return logs


def hyperparameters(config: Config) -> FlatDict:
    """Return the settings that can change what a run learns, by dotted key: no paths, no addresses, no secrets."""
    flat = flatten(asdict(config.to_record()))
    return {key: value for key, value in flat.items() if can_change_learning(key) and key not in _PATHS}


class TensorBoardLog:
    """Events for TensorBoard, with hyperparameters and final figures for its tab HPARAMS.

    All of it lies in one folder, so that TensorBoard shows one run (``SummaryWriter.add_hparams`` would make a second
    one). TensorBoard keeps the first hyperparameters that it reads: those of the first start.

    Args:
        folder: Folder of the events.
        after: Updates of all completed epochs; later events of a start that was killed are hidden.
        settings: Hyperparameters by dotted key.
    """

    def __init__(self, folder: Path, after: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import
        from torch.utils.tensorboard.summary import hparams

        self._board = SummaryWriter(str(folder), purge_step=after + 1)
        shown = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}
        texts = {key: str(value).lower() for key, value in shown.items() if isinstance(value, bool)}
        tags = {f"{_FINAL}/{name}": 0.0 for name in FIGURES}
        experiment, session_start, self._session_end = hparams(shown | texts, tags)
        for summary in (experiment, session_start):
            self._board.file_writer.add_summary(summary)
        self._board.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch."""
        for name, value in metrics.items():
            if name in _COUNTERS:
                continue
            self._board.add_scalar(grouped_name(name), value, step)
        self._board.flush()

    def finish(self, step: int, figures: Mapping[str, float], is_finished: bool) -> None:
        """Write the final figures; a run that may continue keeps its session open."""
        for name in FIGURES:
            if name in figures:
                self._board.add_scalar(f"{_FINAL}/{name}", figures[name], step)
        if is_finished:
            self._board.file_writer.add_summary(self._session_end)

    def close(self) -> None:
        """Flush the events."""
        self._board.close()


class WandbLog:
    """A run at Weights & Biases, or its files for ``wandb sync``.

    It gets the metrics, the hyperparameters and the final figures, and nothing else: no code, output, environment,
    paths or readings of the machine. Every start of the run has the same identifier there.

    Args:
        folder: Folder of the run.
        config: Project, entity and mode.
        settings: Hyperparameters by dotted key.

    Raises:
        ImportError: The package is not installed.
        Exception: The service cannot be reached in time, or nobody is logged in.
    """

    def __init__(self, folder: RunFolder, config: WandbConfig, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        import wandb

        mode = config.mode or os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.login(prompt=False):  # init would ask on the terminal, and wait
            raise ConnectionError("nobody is logged in; run `wandb login`, or set logger.wandb.mode=offline")
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            mode=mode,
            dir=folder.path,
            id=_run_id(folder.wandb / "run_id"),
            name=folder.path.name,
            resume="allow",
            config=dict(settings),
            allow_val_change=True,
            settings=wandb.Settings(
                console="off",
                quiet=True,
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=_INIT_S,
                finish_timeout=_FINISH_S,
            ),
        )
        # A start that was killed wrote epochs that the next one writes again: its own counter must not decide.
        self._run.define_metric("updates")
        self._run.define_metric("*", step_metric="updates")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch."""
        self._run.log({"updates": step, **{grouped_name(name): value for name, value in metrics.items()}})

    def finish(self, step: int, figures: Mapping[str, float], is_finished: bool) -> None:
        """Write the final figures into the table of the project."""
        self._run.summary.update({f"{_FINAL}/{name}": figures[name] for name in FIGURES if name in figures})

    def close(self) -> None:
        """Wait until everything is sent, up to a minute; the rest stays in the folder for ``wandb sync``."""
        self._run.finish()


def _run_id(path: Path) -> str:
    """Return the identifier in a file, which is written if there is none."""
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(secrets.token_hex(8), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
