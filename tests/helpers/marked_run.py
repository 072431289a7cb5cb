"""Trainer and workers on a real network, without a game or a training: their episodes are told apart by rewards."""

import asyncio
import contextlib
import random
import threading
import time
from functools import partial

import numpy as np
import torch
from rich.console import Console

from app.config.schema import Config
from app.distributed.messages import decode_message, unpack_episode
from app.distributed.trainer_interface import NetworkTrainerInterface
from app.distributed.worker import NetworkWorker
from app.envs.env_factory import make_env, make_spec
from app.models.actor import DrivingActor
from app.replay.row_format import RowFormat
from app.runs.fingerprint import fingerprint_json

_WORKER_MARKS = 10_000  # marks of one worker
_STEPS = 3  # of an episode


def quiet_console() -> Console:
    """Return a console that records what it is given and shows nothing."""
    return Console(record=True, width=300, file=open("/dev/null", "w"))


class MarkedTrainer:
    """The trainer's interface, with a list of rewards in place of a replay, and checkpoints in memory.

    Attributes:
        marks: Rewards that have reached the replay, in order.
    """

    def __init__(self, config: Config):
        self._config, self._spec = config, make_spec(config.env)
        self._row_format = RowFormat.of(self._spec)
        torch.manual_seed(0)
        spaces = self._spec.observation_space(), self._spec.action_space()
        self._actor = DrivingActor(*spaces, config, self._spec)
        self.marks: list[float] = []
        self._checkpoint = ([], None)
        self.console = quiet_console()
        self._start()

    def _start(self) -> None:
        self.interface = NetworkTrainerInterface(
            network=self._config.network,
            fingerprint=fingerprint_json(self._config),
            row_format=self._row_format,
            real_time=True,
            deterministic_share=0.0,
            steps_due=lambda: 0,
            console=self.console,
            check=lambda: None,
        )
        self.marks = list(self._checkpoint[0])
        if self._checkpoint[1] is not None:
            self.interface.load_state_dict(self._checkpoint[1])
        self.interface.resume(lambda: self._actor)

    def take(self) -> None:
        """Move what has arrived into the list."""
        while memory := self.interface.retrieve_buffer().memory:
            self.marks += [step[2] for step in memory if step[0] is not None]

    def save(self) -> None:
        """Make a checkpoint."""
        self._checkpoint = list(self.marks), self.interface.state_dict()
        self.interface.saved()

    def kill(self) -> None:
        """Lose everything but the last checkpoint, as a process that is killed does, and start again."""
        kill(self.interface._endpoint)
        self._start()

    def saved_marks(self) -> list[float]:
        """Return all marks in the last checkpoint, those that have not reached the replay included."""
        marks, state = self._checkpoint
        waiting = [unpack_episode(decode_message(one.numpy().tobytes()), self._row_format) for one in state["pending"]]
        if state["rows_left"]:
            waiting[0] = waiting[0][-state["rows_left"] :]
        return marks + [step[2] for episode in waiting for step in episode if step[0] is not None]


class MarkedWorker:
    """A worker whose episodes were not driven: every reward of an episode is its mark.

    Args:
        config: Configuration of the run.
        number: Number of the worker, from 1.

    Attributes:
        acknowledged: Number of the newest episode that the trainer has said to be in a checkpoint.
    """

    def __init__(self, config: Config, number: int):
        spec = make_spec(config.env)
        self.number, self.acknowledged, self.sent = number, 0, 0
        self._sensors, self._actions = spec.sensors, spec.action_dim
        self.worker = NetworkWorker(
            network=config.network,
            fingerprint=fingerprint_json(config),
            env=make_env(config.env, config.env.train_tracks, 0),
            spec=spec,
            make_actor=partial(DrivingActor, config=config, spec=spec),
            real_time=False,
            device="cpu",
            console=quiet_console(),
            check=lambda: None,
        )

    def advance(self, may_send: bool) -> None:
        """Do what is due, and send one more episode if it may."""
        worker = self.worker
        worker.update_actor_weights()
        worker._keep_in_touch()
        if worker._status is not None:
            self.acknowledged = max(self.acknowledged, worker._status.saved.get(worker.name, 0))
        if may_send and worker._may_collect() and len(worker._unsaved) < 20:
            self.sent += 1
            worker.buffer.memory = self._episode()
            worker.send_and_clear_buffer()

    def marks(self, count: int) -> list[float]:
        """Return the rewards of the first episodes."""
        first = self.number * _WORKER_MARKS
        return [float(first + episode) for episode in range(1, count + 1) for _ in range(_STEPS)]

    def is_mine(self, mark: float) -> bool:
        """Return whether an episode is this worker's."""
        return mark // _WORKER_MARKS == self.number

    def _episode(self) -> list[tuple]:
        obs = {"sensors": np.zeros(self._sensors, np.float32), "frame": None}
        mark, action = float(self.number * _WORKER_MARKS + self.sent), np.zeros(self._actions, np.float32)
        steps = [(action, obs, mark, age == _STEPS - 1, False, {}) for age in range(_STEPS)]
        return [(None, obs, 0.0, False, False, {}), *steps]


def kill(side) -> None:
    """Kill the network process of a server, worker or trainer with SIGKILL."""
    side._process.kill()
    side.stop()


class Proxy:
    """TCP proxy on the loopback interface, in a thread, that delays and cuts the connections through it.

    Args:
        port: Port of the server behind it.

    Attributes:
        port: Port of the proxy.
        delay: Largest delay of what passes, in s.
    """

    def __init__(self, port: int):
        self._target, self._lines, self.delay = port, set(), 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Abort all connections; what is on its way is lost."""
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in self._lines])

    def close(self) -> None:
        """Close the proxy."""
        self.cut()
        self._loop.call_soon_threadsafe(self._server.close)
        time.sleep(0.1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._lines |= {writer, back}
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            self._lines -= {writer, back}
        writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(random.choice((100, 10_000, 1 << 16))):
                await asyncio.sleep(random.uniform(0, self.delay))
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
