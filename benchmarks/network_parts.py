"""What `network.py` starts as processes: servers and workers, ours and tmrl's, that drive through a recorded film."""

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import gymnasium
import numpy as np
import psutil
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_dir
from rich.console import Console

from app.config.load import load
from app.config.schema import Config
from app.envs.factory import make_env, make_spec
from app.envs.observation import ObservationBuilder, newest
from app.envs.spec import ObservationSpec
from app.network import worker as worker_module
from app.network.server import NetworkServer
from app.network.transport import free_port
from app.network.worker import NetworkWorker
from app.tmrl_api import RolloutWorker, Server, TorchActorModule
from benchmarks.common import ROOT
from benchmarks.tmrl_peer import get_local_buffer_sample_tm20_imgs

PASSWORD = "a password for benchmarks"
FILM_STEPS = 2000  # of the simulator
SIZE = 64  # pixels
TMRL_HEADER = 12  # digits; tmrl's own default
FOREVER = 10**9


class Site(NamedTuple):
    """What all processes of one measurement have in common.

    Attributes:
        film: file of the recorded driving.
        port: of the server.
        keys: folder of the certificates; None without TLS.
        began: time that counts as 0.
        length: steps of an episode.
        step_s: how long a step should last, at least.
    """

    film: Path
    port: int
    keys: Path | None
    began: float
    length: int
    step_s: float

    def config(self, role: str) -> Config:
        """Return our configuration: images are sent, and a small policy drives without looking at them."""
        tls = ["network.tls=true", f"network.keys_dir={self.keys}"] if self.keys else []
        with initialize_config_dir(str(ROOT / "conf")):
            return load(compose("config", [
                "model=mlp", "env=sim", f"env.image_size={SIZE}", "device=cpu", "threads=1", f"role={role}",
                f"network.port={self.port}", f"network.password={PASSWORD}", "network.backlog_mb=2000", *tls,
            ]))  # fmt: skip


def record(path: Path) -> None:
    """Drive the simulator at random, and keep what the car sensed and saw."""
    with initialize_config_dir(str(ROOT / "conf")):
        cfg = load(compose("config", ["env=sim", f"env.image_size={SIZE}"])).env
    env, rng, ended = make_env(cfg, cfg.train_tracks, 0), np.random.default_rng(0), True
    sensors, frames = [], []
    while len(frames) < FILM_STEPS:
        if ended:
            obs, ended = env.reset()[0], False
        else:
            action = rng.uniform([0, -1, -0.5], [1, 0, 0.5]).astype(np.float32)
            obs, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
        row, frame = newest(obs, env.spec_)
        sensors.append(row)
        frames.append(frame)
    np.savez(path, sensors=np.stack(sensors), frames=np.stack(frames))


class _Film(gymnasium.Env):
    """Shows the film in a loop and ignores the actions; the first sensor tells when the step was made."""

    def __init__(self, site: Site) -> None:
        """Read the film."""
        film = np.load(site.film)
        self._site, self._sensors, self._frames = site, film["sensors"], film["frames"]
        self._at = self._steps = 0
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._next = time.monotonic()

    def _turn(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return sensors, picture, and whether the episode ends, when it is time for the next step."""
        self._next = max(self._next + self._site.step_s, time.monotonic() - 1.0)
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._at = (self._at + 1) % len(self._frames)
        self._steps += 1
        sensors = self._sensors[self._at].copy()
        sensors[0] = time.time() - self._site.began
        return sensors, self._frames[self._at], self._steps >= self._site.length


class OurFilm(_Film):
    """The film as our environments show it."""

    def __init__(self, site: Site, spec: ObservationSpec) -> None:
        """Read the film."""
        super().__init__(site)
        self.spec_, self._builder = spec, ObservationBuilder(spec)
        self.observation_space = spec.space()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Begin an episode."""
        self._steps = -1
        sensors, frame, _ = self._turn()
        return self._builder.reset(sensors, frame), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Show the next step."""
        sensors, frame, ended = self._turn()
        return self._builder.append(sensors, frame, action, 0.1), 0.1, ended, False, {"outcome": "timeout"}


class TmrlFilm(_Film):
    """The film as tmrl's image pipeline shows it: speed, gear, rpm, four pictures, two actions."""

    def __init__(self, site: Site) -> None:
        """Read the film."""
        super().__init__(site)
        self._pictures, self._actions = deque(maxlen=4), deque(maxlen=2)
        shapes = [(1,), (1,), (1,), (4, SIZE, SIZE), (3,), (3,)]
        self.observation_space = spaces.Tuple([spaces.Box(-np.inf, np.inf, shape, np.float32) for shape in shapes])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Begin an episode."""
        self._steps = -1
        sensors, frame, _ = self._turn()
        self._pictures.extend([frame] * 4)
        self._actions.extend([np.zeros(3, np.float32)] * 2)
        return self._observation(sensors), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Show the next step."""
        sensors, frame, ended = self._turn()
        self._pictures.append(frame)
        self._actions.append(action)
        return self._observation(sensors), 0.1, ended, False, {}

    def _observation(self, sensors: np.ndarray) -> tuple[np.ndarray, ...]:
        pictures = np.stack(self._pictures).astype(np.float32) / 256.0
        return *(sensors[i : i + 1] for i in range(3)), pictures, *self._actions


class SmallActor(TorchActorModule):
    """What drives in tmrl's pipeline: as small as our policy."""

    def __init__(self, observation_space: Any, action_space: Any, device: str = "cpu") -> None:
        """Make a network that ignores the pictures, as our policy does."""
        super().__init__(observation_space, action_space, device)
        widths = (9, 256, 256, 6)
        layers = [
            layer
            for a, b in zip(widths, widths[1:], strict=False)
            for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())
        ]
        self.net = torch.nn.Sequential(*layers[:-1])

    def act(self, obs: Any, test: bool = False) -> np.ndarray:
        """Return an action (3,) for a batch of one."""
        speed, gear, rpm, _, *actions = obs
        mean, log_std = self.net(torch.cat([speed, gear, rpm, *actions], -1)).chunk(2, -1)
        return torch.tanh(mean + log_std.exp() * torch.randn_like(mean))[0].numpy()


def serve_ours(site: Site) -> None:
    """Be our server."""
    NetworkServer(site.config("server").network).serve(lambda: None)


def serve_tmrl(site: Site) -> None:
    """Be tmrl's server."""
    server = Server(port=site.port, password=PASSWORD, local_port=free_port(), header_size=TMRL_HEADER, security=None)
    time.sleep(FOREVER)
    del server


def work_ours(site: Site) -> None:
    """Be one of our workers."""
    torch.set_num_threads(1)
    config = site.config("worker")
    spec = make_spec(config.env)
    with mock.patch.object(worker_module, "make_env", lambda *_: OurFilm(site, spec)):
        worker = NetworkWorker(config, spec, "cpu", Console(quiet=True), lambda: None)
    worker.serve()


def work_tmrl(site: Site) -> None:
    """Be one of tmrl's workers."""
    torch.set_num_threads(1)
    worker = RolloutWorker(
        env_cls=lambda: TmrlFilm(site), actor_module_cls=SmallActor,
        sample_compressor=get_local_buffer_sample_tm20_imgs, model_path=str(site.film.with_name(f"{os.getpid()}.tmod")),
        model_history=0, server_ip="127.0.0.1", server_port=site.port, password=PASSWORD, local_port=free_port(),
        header_size=TMRL_HEADER, security=None,
    )  # fmt: skip
    worker.run(verbose=False)


def _enter(work: Any, site: Site) -> None:
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
        work(site)


@contextlib.contextmanager
def processes(*works: Any, site: Site) -> Iterator[None]:
    """Run functions as processes; on the way out they are gone, with all that they have started."""
    made: list[BaseProcess] = [get_context("spawn").Process(target=_enter, args=(work, site)) for work in works]
    for process in made:
        process.start()
    try:
        yield
    finally:
        everyone = [one for process in made for one in _family(process.pid)]
        for one in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everyone, timeout=10)
        sys.stdout.flush()


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []
