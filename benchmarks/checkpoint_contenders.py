"""The two that ``checkpoints.py`` compares: a run of ours and a trainer of tmrl's, each with a full memory."""

import gc
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from rich.console import Console

from app.config.load import load
from app.config.schema import Config
from app.envs.factory import make_spec
from app.replay.layout import slack_of
from app.replay.storage import MappedStorage
from app.runs.folder import RunFolder
from app.tmrl_api import Buffer, TorchTrainingOffline
from app.training.beginning import find_source
from app.training.setup import set_up
from app.training.stop import StopRequest
from app.training.trainer import Trainer
from benchmarks.common import ROOT
from benchmarks.replay import SIZE, as_ours, as_tmrl, fill, stream
from benchmarks.tmrl_peer import (
    MemoryTMFull,
    SpinupSacAgent,
    VanillaCNNActorCritic,
    dump_run_instance,
    load_run_instance,
)


class Ours:
    """One of our runs, with a full replay.

    Args:
        rows: capacity of the replay.
        runs_dir: where the run folder goes.
    """

    name = "ours"

    def __init__(self, rows: int, runs_dir: Path):
        self.rows, self.config = rows, configure(rows, runs_dir)
        self._open()
        self.run.begin(self.source, replay_cleared=False)

    def fill(self) -> None:
        """Leave no row of the files unwritten, and have an optimiser and an episode in full swing."""
        training = self.run.training
        training.update_buffer(self.run.interface)
        fill(training.memory, as_ours, self.rows + slack_of(self.rows))
        training.agent.train(training.memory.sample())

    def sample(self) -> dict[str, float]:
        """Append the steps of an epoch, and measure a checkpoint."""
        memory, rows = self.run.training.memory, steps_of_epoch(self.config)
        buffer, before = new_steps(as_ours, rows), io_bytes("write_bytes")
        memory.append(buffer)
        began = time.perf_counter()
        memory.seal()  # the checkpoint would do it: measured apart
        sealed = time.perf_counter()
        self.run.save_checkpoint()
        seconds = time.perf_counter() - began
        file = self.folder.checkpoints.last.stat().st_size
        return {
            "seconds": seconds,
            "seconds_rows": sealed - began,
            "seconds_durable": seconds,
            "bytes": file + rows * memory.nbytes // (self.rows + slack_of(self.rows)),
            "bytes_checkpoint": file,
            "bytes_kernel": io_bytes("write_bytes") - before,
        }

    def go_on(self) -> float:
        """Continue the run in a new object; returns the seconds."""
        self._open()
        began = time.perf_counter()
        self.run.begin(self.source, replay_cleared=False)
        return time.perf_counter() - began

    def close(self) -> None:
        """Let go of the run, its files' mappings included."""
        self.run.close()
        self.folder.close()
        del self.run
        gc.collect()

    def _open(self) -> None:
        setup = set_up(self.config)
        self.folder = RunFolder.open(self.config)
        storage = MappedStorage(self.folder.replay)
        files = storage.files(setup.spec)
        self.source = find_source(self.config, self.folder, files)
        self.folder.list_files(files)
        self.run = Trainer(self.config, setup, self.folder, storage, Console(quiet=True), StopRequest())


class Peer:
    """One of tmrl's trainers, with a full memory.

    Args:
        rows: size of the memory.
        folder: where its checkpoint goes.
        config: ours, for the action space, the batch and the steps of an epoch.
    """

    name = "tmrl"

    def __init__(self, rows: int, folder: Path, config: Config):
        self.rows, self.config, self._path = rows, config, folder / f"tmrl-{rows}.tcpt"
        self.trainer = TorchTrainingOffline(
            env_cls=(None, make_spec(config.env).action_space()),  # tmrl's CNN reads its sizes from its constants
            memory_cls=partial(
                MemoryTMFull, memory_size=rows, batch_size=config.replay.batch_size, imgs_obs=4, act_buf_len=2
            ),
            training_agent_cls=partial(SpinupSacAgent, model_cls=VanillaCNNActorCritic),
            device="cpu",
        )

    def fill(self) -> None:
        """Fill the memory, and have the optimisers in full swing."""
        fill(self.trainer.memory, as_tmrl, self.rows)
        self.trainer.agent.train(self.trainer.memory.sample())

    def sample(self) -> dict[str, float]:
        """Append the steps of an epoch, and measure a checkpoint."""
        self.trainer.memory.append(new_steps(as_tmrl, steps_of_epoch(self.config)))
        before, began = io_bytes("write_bytes"), time.perf_counter()
        dump_run_instance(self.trainer, str(self._path))
        seconds = time.perf_counter() - began
        with self._path.open("r+b") as file:
            os.fsync(file.fileno())
        durable, size = time.perf_counter() - began, self._path.stat().st_size
        return {
            "seconds": seconds,
            "seconds_durable": durable,
            "bytes": size,
            "bytes_checkpoint": size,
            "bytes_kernel": io_bytes("write_bytes") - before,
        }

    def go_on(self) -> float:
        """Load the trainer; returns the seconds."""
        began = time.perf_counter()
        self.trainer = load_run_instance(str(self._path))
        return time.perf_counter() - began

    def close(self) -> None:
        """Let go of the trainer: two would not fit."""
        del self.trainer
        gc.collect()


def configure(rows: int, runs_dir: Path) -> Config:
    """Return the default configuration with the frames of the game."""
    overrides = ("env=sim", f"env.image_size={SIZE}", "logger=quiet", "device=cpu", f"replay.capacity={rows}")
    with initialize_config_dir(str(ROOT / "conf")):
        return load(compose("config", [*overrides, f"runs_dir='{runs_dir}'", f"run_name=checkpoints-{rows}"]))


def steps_of_epoch(config: Config) -> int:
    """Return how many steps an epoch collects."""
    return round(config.training.updates_per_epoch / config.training.max_training_steps_per_env_step)


def new_steps(as_step: Callable[..., tuple[Any, ...]], rows: int) -> Buffer:
    """Make some new steps."""
    buffer = Buffer()
    buffer.memory = [as_step(*step) for step in islice(chain.from_iterable(stream(rows)), rows)]
    return buffer


def io_bytes(counter: str) -> float:
    """Return what the kernel has counted for this process so far; NaN where it does not."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return float(dict(line.split(": ") for line in lines)[counter])
