"""Server and worker processes for `network.py`, ours and tmrl's; the workers replay recorded driving."""

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import psutil
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_dir
from rich.console import Console

from app.config.load import load
from app.config.schema import Config
from app.core.tmrl_api import RolloutWorker, Server, TorchActorModule
from app.distributed.server import NetworkServer
from app.distributed.transport import free_port
from app.distributed.worker import NetworkWorker
from app.envs.env_factory import make_env, make_spec
from app.envs.observation import ObservationBuilder, newest_sensors_and_frame
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.runs.fingerprint import fingerprint_json
from benchmarks.common import ROOT
from benchmarks.tmrl_peer import get_local_buffer_sample_tm20_imgs

PASSWORD = "a password for benchmarks"
RECORDED_STEPS = 2000
SIZE = 64  # pixels
TMRL_HEADER = 12  # digits, tmrl's default
FOREVER = 10**9


class Site(NamedTuple):
    """Settings that all processes of one measurement share.

    Attributes:
        recording: File of the recorded driving.
        port: Port of the server.
        keys: Folder of the certificates; None without TLS.
        began: Time that counts as 0, in s.
        length: Steps of an episode.
        step_s: Minimum duration of a step, in s.
    """

    recording: Path
    port: int
    keys: Path | None
    began: float
    length: int
    step_s: float

    def config(self, role: str) -> Config:
        """Return our configuration: images are sent, and a small policy acts without them."""
        tls = ["network.tls=true", f"network.keys_dir={self.keys}"] if self.keys else []
        with initialize_config_dir(str(ROOT / "conf")):
            return load(compose("config", [
                "model=mlp", "env=sim", f"env.image_size={SIZE}", "device=cpu", "threads=1", f"role={role}",
                f"network.port={self.port}", f"network.password={PASSWORD}", "network.backlog_mb=2000", *tls,
            ]))  # fmt: skip


def record(path: Path) -> None:
    """Drive in the simulator with random actions, and save sensors and frames."""
    with initialize_config_dir(str(ROOT / "conf")):
        cfg = load(compose("config", ["env=sim", f"env.image_size={SIZE}"])).env
    env, rng, ended = make_env(cfg, cfg.train_tracks, 0), np.random.default_rng(0), True
    sensors, frames = [], []
    while len(frames) < RECORDED_STEPS:
        if ended:
            obs, ended = env.reset()[0], False
        else:
            action = rng.uniform([0, -1, -0.5], [1, 0, 0.5]).astype(np.float32)
            obs, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
        row, frame = newest_sensors_and_frame(obs, env.observation_spec)
        sensors.append(row)
        frames.append(frame)
    np.savez(path, sensors=np.stack(sensors), frames=np.stack(frames))


class _Recording(gymnasium.Env):
    """Replays the recording in a loop and ignores the actions; the first sensor is the time of the step."""

    def __init__(self, site: Site) -> None:
        """Read the recording."""
        recording = np.load(site.recording)
        self._site, self._sensors, self._frames = site, recording["sensors"], recording["frames"]
        self._position = self._steps = 0
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._next = time.monotonic()

    def _next_step(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Wait until the next step is due, and return sensors, frame, and whether the episode ends."""
        self._next = max(self._next + self._site.step_s, time.monotonic() - 1.0)
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._position = (self._position + 1) % len(self._frames)
        self._steps += 1
        sensors = self._sensors[self._position].copy()
        sensors[0] = time.time() - self._site.began
        return sensors, self._frames[self._position], self._steps >= self._site.length


class OurRecording(_Recording):
    """The recording in our observations."""

    def __init__(self, site: Site, spec: ObservationSpec) -> None:
        """Read the recording."""
        super().__init__(site)
        self.observation_spec, self._builder = spec, ObservationBuilder(spec)
        self.observation_space = spec.observation_space()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Start an episode."""
        self._steps = -1
        sensors, frame, _ = self._next_step()
        return self._builder.reset(sensors, frame), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Return the next step."""
        sensors, frame, ended = self._next_step()
        return self._builder.append(sensors, frame, action, 0.1), 0.1, ended, False, {"outcome": "timeout"}


class TmrlRecording(_Recording):
    """The recording in the observations of tmrl's image pipeline: speed, gear, rpm, four frames, two actions."""

    def __init__(self, site: Site) -> None:
        """Read the recording."""
        super().__init__(site)
        self._pictures, self._actions = deque(maxlen=4), deque(maxlen=2)
        shapes = [(1,), (1,), (1,), (4, SIZE, SIZE), (3,), (3,)]
        self.observation_space = spaces.Tuple([spaces.Box(-np.inf, np.inf, shape, np.float32) for shape in shapes])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Start an episode."""
        self._steps = -1
        sensors, frame, _ = self._next_step()
        self._pictures.extend([frame] * 4)
        self._actions.extend([np.zeros(3, np.float32)] * 2)
        return self._observation(sensors), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Return the next step."""
        sensors, frame, ended = self._next_step()
        self._pictures.append(frame)
        self._actions.append(action)
        return self._observation(sensors), 0.1, ended, False, {}

    def _observation(self, sensors: np.ndarray) -> tuple[np.ndarray, ...]:
        pictures = np.stack(self._pictures).astype(np.float32) / 256.0
        return *(sensors[i : i + 1] for i in range(3)), pictures, *self._actions


class SmallActor(TorchActorModule):
    """Actor of tmrl's pipeline, as small as our policy."""

    def __init__(self, observation_space: Any, action_space: Any, device: str = "cpu") -> None:
        """Create a network that ignores the frames, as our policy does."""
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


def run_our_server(site: Site) -> None:
    """Run our server."""
    NetworkServer(site.config("server").network).serve(lambda: None)


def run_tmrl_server(site: Site) -> None:
    """Run tmrl's server."""
    server = Server(port=site.port, password=PASSWORD, local_port=free_port(), header_size=TMRL_HEADER, security=None)
    time.sleep(FOREVER)
    del server


def run_our_worker(site: Site) -> None:
    """Run one of our workers."""
    torch.set_num_threads(1)
    config = site.config("worker")
    spec = make_spec(config.env)
    worker = NetworkWorker(
        network=config.network,
        fingerprint=fingerprint_json(config),
        env=OurRecording(site, spec),
        spec=spec,
        make_actor=partial(DrivingActor, config=config, spec=spec),
        real_time=False,
        device="cpu",
        console=Console(quiet=True),
        check=lambda: None,
    )
    worker.serve()


def run_tmrl_worker(site: Site) -> None:
    """Run one of tmrl's workers."""
    torch.set_num_threads(1)
    worker = RolloutWorker(
        env_cls=lambda: TmrlRecording(site), actor_module_cls=SmallActor,
        sample_compressor=get_local_buffer_sample_tm20_imgs,
        model_path=str(site.recording.with_name(f"{os.getpid()}.tmod")), model_history=0,
        server_ip="127.0.0.1", server_port=site.port, password=PASSWORD, local_port=free_port(),
        header_size=TMRL_HEADER, security=None,
    )  # fmt: skip
    worker.run(verbose=False)


def _run_silently(target: Any, site: Site) -> None:
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        target(site)


@contextlib.contextmanager
def processes(*targets: Any, site: Site) -> Iterator[None]:
    """Run functions as processes; at the end of the context they are killed, with all that they have started."""
    context = get_context("spawn")
    started: list[BaseProcess] = [context.Process(target=_run_silently, args=(one, site)) for one in targets]
    for process in started:
        process.start()
    try:
        yield
    finally:
        everyone = [one for process in started for one in _with_children(process.pid)]
        for one in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everyone, timeout=10)
        sys.stdout.flush()


def _with_children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return []
