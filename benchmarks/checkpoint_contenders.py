"""The two contenders of ``checkpoints.py``: a run of this project and a trainer of tmrl, each with a full memory."""

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
from app.core.tmrl_api import Buffer, TorchTrainingOffline
from app.envs.env_factory import make_spec
from app.replay.ring import slack_rows
from app.replay.storage import MappedStorage
from app.runs.run_folder import RunFolder
from app.training.resume import find_source
from app.training.rollout import connect_locally
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

NEW_STEPS = 250  # between two checkpoints; the smallest replay has room for those of four


class Ours:
    """A run of this project with a full replay.

    Args:
        rows: Capacity of the replay.
        runs_dir: Parent of the run folder.
    """

    name = "ours"

    def __init__(self, rows: int, runs_dir: Path):
        self.rows, self.config = rows, configure(rows, runs_dir)
        self._open()
        self.run.start(self.source, replay_cleared=False)

    def fill(self) -> None:
        """Write every row of the files once, start an episode, and do one update, so that the optimisers have state."""
        loop = self.run.loop
        loop.update_buffer(self.run.interface)
        fill(loop.memory, as_ours, self.rows + slack_rows(self.rows))
        loop.agent.train(loop.memory.sample())

    def sample(self) -> dict[str, float]:
        """Append new steps, and measure a checkpoint; return seconds and bytes by name."""
        memory = self.run.loop.memory
        buffer, before = new_steps(as_ours, NEW_STEPS), io_bytes("write_bytes")
        memory.append(buffer)
        start = time.perf_counter()
        memory.flush()  # part of the checkpoint, measured separately
        flushed = time.perf_counter()
        self.run.save_checkpoint()
        seconds = time.perf_counter() - start
        file = self.folder.checkpoints.last.stat().st_size
        return {
            "seconds": seconds,
            "seconds_rows": flushed - start,
            "seconds_durable": seconds,
            "bytes": file + NEW_STEPS * memory.nbytes // (self.rows + slack_rows(self.rows)),
            "bytes_checkpoint": file,
            "bytes_kernel": io_bytes("write_bytes") - before,
        }

    def resume(self) -> float:
        """Resume the run in a new object; return the seconds that it took."""
        self._open()
        start = time.perf_counter()
        self.run.start(self.source, replay_cleared=False)
        return time.perf_counter() - start

    def close(self) -> None:
        """Release the run and its memory-mapped files."""
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
        self.folder.add_to_manifest(files)
        console, stop = Console(quiet=True), StopRequest()
        self.run = Trainer(self.config, setup, self.folder, storage, console, stop, connect_locally)


class Peer:
    """A trainer of tmrl with a full memory.

    Args:
        rows: Size of the memory.
        folder: Folder of its checkpoint.
        config: Configuration of this project, for the action space and the batch.
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
        """Fill the memory, and do one update, so that the optimisers have state."""
        fill(self.trainer.memory, as_tmrl, self.rows)
        self.trainer.agent.train(self.trainer.memory.sample())

    def sample(self) -> dict[str, float]:
        """Append new steps, and measure a checkpoint; return seconds and bytes by name."""
        self.trainer.memory.append(new_steps(as_tmrl, NEW_STEPS))
        before, start = io_bytes("write_bytes"), time.perf_counter()
        dump_run_instance(self.trainer, str(self._path))
        seconds = time.perf_counter() - start
        with self._path.open("r+b") as file:
            os.fsync(file.fileno())
        durable, size = time.perf_counter() - start, self._path.stat().st_size
        return {
            "seconds": seconds,
            "seconds_durable": durable,
            "bytes": size,
            "bytes_checkpoint": size,
            "bytes_kernel": io_bytes("write_bytes") - before,
        }

    def resume(self) -> float:
        """Load the trainer; return the seconds that it took."""
        start = time.perf_counter()
        self.trainer = load_run_instance(str(self._path))
        return time.perf_counter() - start

    def close(self) -> None:
        """Release the trainer: there is no memory for two."""
        del self.trainer
        gc.collect()


def configure(rows: int, runs_dir: Path) -> Config:
    """Return the default configuration with images of the size that the game uses."""
    overrides = ("env=sim", f"env.image_size={SIZE}", "logger=quiet", "device=cpu", f"replay.capacity={rows}")
    with initialize_config_dir(str(ROOT / "conf")):
        return load(compose("config", [*overrides, f"runs_dir='{runs_dir}'", f"run_name=checkpoints-{rows}"]))


def new_steps(as_step: Callable[..., tuple[Any, ...]], rows: int) -> Buffer:
    """Return a buffer of new steps."""
    buffer = Buffer()
    buffer.memory = [as_step(*step) for step in islice(chain.from_iterable(stream(rows)), rows)]
    return buffer


def io_bytes(counter: str) -> float:
    """Return a byte counter of the kernel for this process; NaN on systems without one."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return float(dict(line.split(": ") for line in lines)[counter])
