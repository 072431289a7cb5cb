"""Long runs: memory, open files, threads and the time of an update stay as they are, and a large replay can be kept."""

import dataclasses
import gc
import io
import statistics
import time

import numpy as np
import psutil
from rich.console import Console

from app.agents.sac import SACAgent
from app.replay.demonstrations import Demonstrations
from app.replay.ring import slack_rows
from app.replay.row_format import array_kinds
from app.replay.storage import MappedStorage
from app.runs.run_folder import RunFolder
from app.training.run import train_in_folder
from app.training.setup import set_up
from app.training.stop import StopRequest
from tests.helpers.make import compose
from tests.helpers.replay import make_memory, replay_spec
from tests.helpers.trust_size import cases
from tests.helpers.trust_table import record

UPDATES = 200_000
EPOCHS = 40
RUN = (
    "model=mlp", "env=gym", "env.id=Pendulum-v1", "env.max_steps=50", "logger=quiet", "threads=1", "seed=0",
    "replay.capacity=500", "replay.batch_size=8", "training.start_training=100", f"training.epochs={EPOCHS}",
    "training.max_training_steps_per_env_step=2", "training.update_model_interval=100", "training.eval_episodes=1",
    "training.eval_episodes_stochastic=1", "training.eval_episodes_other=1", "training.checkpoint_interval_s=1",
    "critic.hidden_dim=8", "actor.hidden_dim=8", "model.float_dim=8", "run_name=run",
)  # fmt: skip
MOST_MEMORY = 12_000_000  # bytes between the first quarter and the end: allocators keep some of what was free

ROWS = 1_000_000
EPISODE = 200  # rows


@dataclasses.dataclass(frozen=True)
class Load:
    """What the process holds after an epoch, and how long the processor worked for it."""

    memory: int
    files: int
    threads: int
    seconds: float


class Meter:
    """Measures the process after every epoch, as a callback of the training."""

    def __init__(self):
        self.loads, self._process = [], psutil.Process()
        self._since = time.process_time()

    def report(self, epoch, objective):
        gc.collect()
        now = time.process_time()
        process = self._process
        load = Load(process.memory_info().rss, process.num_fds(), process.num_threads(), now - self._since)
        self.loads.append(load)
        self._since = time.process_time()

    def stop_reason(self):
        return None


def test_memory_files_threads_and_time_stay_flat_over_a_long_run(tmp_path, monkeypatch):
    """The whole loop with its replay, checkpoints and records; only the update of the networks is left out."""

    def train(self, batch):
        self.updates += 1
        return {"loss_critic": 1.0, "loss_actor": -1.0, "q_mean": 0.0, "alpha": 0.1, "entropy": 1.0}

    monkeypatch.setattr(SACAgent, "train", train)
    updates = cases(UPDATES) // EPOCHS
    config = compose(*RUN, f"training.updates_per_epoch={updates}", f"runs_dir={tmp_path}")
    meter, begin, console = Meter(), time.monotonic(), Console(file=io.StringIO())
    with StopRequest() as stop, RunFolder.open(config) as folder:
        result = train_in_folder(folder, config, set_up(config), console, stop, callbacks=[meter])
        size = (folder.replay / "rows.bin").stat().st_size

    first, last = meter.loads[EPOCHS // 4], meter.loads[-1]
    early, late = ([load.seconds for load in part] for part in (meter.loads[2:12], meter.loads[-10:]))
    grown = {
        "memory": last.memory - first.memory > MOST_MEMORY,
        "open files": last.files > first.files,
        "threads": last.threads > first.threads,
        "time of an update": statistics.median(late) > 1.5 * statistics.median(early),
    }
    record("updates of one run, its ring wrapped", updates * EPOCHS, sum(grown.values()), time.monotonic() - begin)
    assert result.epochs == EPOCHS and not any(grown.values()), (grown, meter.loads)
    rows = config.replay.capacity + slack_rows(config.replay.capacity)
    assert size < 200 * rows and updates * EPOCHS // 2 > 5 * rows  # the files wrapped instead of growing


def test_replay_of_a_million_steps_is_opened_verified_and_continued(tmp_path):
    spec, begin = (
        replay_spec(sensors=3, action_dim=1, action_history=0, image=None, window=0, shown=()),
        time.monotonic(),
    )

    def opened():
        storage = MappedStorage(tmp_path / "replay")
        return storage, make_memory(spec, ROWS, storage=storage, slack=slack_rows(ROWS), horizons=())

    storage, memory = opened()
    for part in range(4):
        memory.append_demonstrations(episodes(spec, ROWS // 4, part))
    state = memory.state_dict()
    drawn = memory.sample()
    storage.close()

    storage, memory = opened()
    assert memory.find_damage(state) is None
    memory.load_state_dict(state)
    assert len(memory) == ROWS
    assert_same_batch(memory.sample(), drawn)
    memory.append_demonstrations(episodes(spec, slack_rows(ROWS), 9))  # the ring is full: the oldest rows go
    later = memory.state_dict()
    storage.close()

    storage, memory = opened()
    assert memory.find_damage(later) is None
    memory.load_state_dict(later)
    assert len(memory) == ROWS and memory.appended == ROWS + slack_rows(ROWS)
    storage.close()

    with (tmp_path / "replay" / "rows.bin").open("r+b") as file:
        file.seek(-100 * 4096, 2)
        changed = bytes([file.read(1)[0] ^ 1])
        file.seek(-1, 1)
        file.write(changed)
    storage, memory = opened()
    found = memory.find_damage(later)
    storage.close()
    record("rows of a replay, opened, verified and continued", ROWS, found is None, time.monotonic() - begin)
    assert "rows.bin is damaged: the checksum of its rows" in found


def episodes(spec, rows: int, seed: int) -> Demonstrations:
    """Random episodes of the same length."""
    rng = np.random.default_rng(seed)
    kinds = array_kinds(spec, rows)
    (shape, dtype), ends = kinds["rows"], np.zeros(*kinds["ends"])
    resets = np.arange(rows) % EPISODE == 0
    ends[np.roll(resets, -1), 0] = True
    return Demonstrations({"rows": rng.standard_normal(shape).astype(dtype), "ends": ends}, resets)


def assert_same_batch(one, other):
    for name in one.obs:
        assert np.array_equal(one.obs[name], other.obs[name]), name
    assert np.array_equal(one.action, other.action) and np.array_equal(one.reward, other.reward)
