"""Steps through the network: how many a second, in how many bytes, how late; beside tmrl's own image pipeline.

    python benchmarks/network.py [--only a,b,c] [--seconds 15] [--out network.json]

    a  steps a second with 1, 2 and 4 workers that are as fast as they can be, from the environment to the replay
    b  bytes of a step on the wire
    c  delay from a step, and from the end of its episode, to the replay, with workers at 20 Hz

Server, workers and trainer are processes of their own on the loopback interface. Both pipelines get the same film of
64 × 64 pictures that env=sim has shown, drive with a small network and fill their own replay: ours is role=worker,
role=server and the trainer's interface with its ledger and checkpoints, once with TLS and once without; tmrl's is its
RolloutWorker, Server and TrainerInterface with MemoryTMFull and the compressor of its image pipeline, without TLS. The
actor is broadcast every two seconds. Episodes are sent whole by both.
"""

import logging
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from rich.console import Console

from app.config.schema import ReplayConfig
from app.envs.factory import make_spec
from app.models.actor import DrivingActor
from app.network.certificates import make_keys
from app.network.codec import dumps
from app.network.interface import NetworkInterface
from app.network.messages import Steps, pack_steps, to_plain
from app.network.transport import free_port
from app.replay.compress import SampleCompressor
from app.replay.memory import ReplayMemory
from app.replay.storage import MemoryStorage
from app.tmrl_api import Buffer, TrainerInterface
from benchmarks import network_parts as parts
from benchmarks.common import machine, markdown, parser, publish
from benchmarks.network_parts import PASSWORD, TMRL_HEADER, OurFilm, Site, SmallActor, TmrlFilm, processes
from benchmarks.tmrl_peer import MemoryTMFull, get_local_buffer_sample_tm20_imgs

WORKERS = (1, 2, 4)
HERTZ = 20
FAST_EPISODE, REAL_EPISODE = 200, 100  # steps
CAPACITY = 100_000  # steps of either replay
BROADCAST_S = SAVE_S = 2.0
START_S = 60.0  # in which the first episode must come


class Arrived(NamedTuple):
    """Steps that came into a replay.

    Attributes:
        made: (N,) s, when each step was made, on the clock of the site.
        ends: (N,) bool, whether it ended its episode.
        at: s, when they were in the replay.
    """

    made: np.ndarray
    ends: np.ndarray
    at: float


class Ours:
    """Our trainer's side."""

    work, serve = staticmethod(parts.work_ours), staticmethod(parts.serve_ours)

    def __init__(self, site: Site):
        config = site.config("trainer")
        self._site, spec = site, make_spec(config.env)
        self._interface = NetworkInterface(config, spec, lambda: 10**6, Console(quiet=True), lambda: None)
        self._actor = DrivingActor(spec.space(), spec.action_space(), config, spec)
        replay = ReplayConfig(capacity=CAPACITY, batch_size=1, recent_share=0.0, recent_rows=1, keep=True)
        self._memory = ReplayMemory(spec, replay, 1, 0.99, (1,), 1, "cpu", seed=0, storage=MemoryStorage())
        self._saved = 0.0

    def broadcast(self) -> None:
        """Send the actor."""
        self._interface.send_model(self._actor)

    def take(self) -> Arrived:
        """Move what has come into the replay, and let workers forget what a checkpoint would hold."""
        buffer = self._interface.retrieve_buffer()
        self._memory.append(buffer)
        now = time.time() - self._site.began
        if now - self._saved > SAVE_S:
            self._saved = now
            self._interface.state_dict()
            self._interface.saved()
        steps = [step for step in buffer.memory if step[0] is not None]
        made = np.array([step[1]["sensors"][0] for step in steps])
        return Arrived(made, np.array([step[3] or step[4] for step in steps], bool), now)

    def close(self) -> None:
        """Leave the server."""
        self._interface.close(finished=False)


class Tmrl:
    """tmrl's trainer's side."""

    work, serve = staticmethod(parts.work_tmrl), staticmethod(parts.serve_tmrl)

    def __init__(self, site: Site):
        self._site = site
        self._interface = TrainerInterface(
            server_ip="127.0.0.1", server_port=site.port, password=PASSWORD, local_com_port=free_port(),
            header_size=TMRL_HEADER, security=None, model_path=str(site.film.with_name("trainer.tmod")),
        )  # fmt: skip
        env = TmrlFilm(site)
        self._actor = SmallActor(env.observation_space, env.action_space)
        self._memory = MemoryTMFull(memory_size=CAPACITY, batch_size=1, imgs_obs=4, act_buf_len=2)

    def broadcast(self) -> None:
        """Send the actor."""
        self._interface.broadcast_model(self._actor)

    def take(self) -> Arrived:
        """Move what has come into the replay."""
        buffer: Buffer = self._interface.retrieve_buffer()
        if buffer.memory:
            self._memory.append(buffer)
        else:
            time.sleep(0.01)  # as our interface does
        now = time.time() - self._site.began
        steps = [step for step in buffer.memory if step[0] is not None]
        made = np.array([step[1][0][0] for step in steps])
        return Arrived(made, np.array([step[3] or step[4] for step in steps], bool), now)

    def close(self) -> None:
        """Leave the server; tmrl's interface has no way to, so its endpoint is stopped."""
        self._interface._TrainerInterface__endpoint.stop()


CANDIDATES: dict[str, tuple[type, bool]] = {"ours": (Ours, False), "ours, TLS": (Ours, True), "tmrl": (Tmrl, False)}


def run(name: str, folder: Path, workers: int, seconds: float, length: int, step_s: float) -> list[Arrived]:
    """Let workers drive, and return what arrived in ``seconds`` when all of them had settled."""
    kind, tls = CANDIDATES[name]
    site = Site(folder / "film.npz", free_port(), folder / "keys" if tls else None, time.time(), length, step_s)
    with processes(kind.serve, *[kind.work] * workers, site=site):
        trainer = kind(site)
        try:
            _meet(trainer, workers, length)
            _collect(trainer, seconds / 3)  # what had piled up before they met
            return _collect(trainer, seconds)
        finally:
            trainer.close()


def _meet(trainer: Any, workers: int, length: int) -> None:
    """Wait for three episodes of every worker, on average."""
    came, deadline, sent = 0, time.monotonic() + START_S, -BROADCAST_S
    while came < 3 * workers * length:
        sent = _broadcast(trainer, sent)
        came += len(trainer.take().made)
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {came} steps in {START_S:g} s")


def _collect(trainer: Any, seconds: float) -> list[Arrived]:
    began, sent, found = time.monotonic(), 0.0, []
    while time.monotonic() - began < seconds:
        sent = _broadcast(trainer, sent)
        found.append(trainer.take())
    return [one for one in found if len(one.made)]


def _broadcast(trainer: Any, sent: float) -> float:
    if time.monotonic() - sent < BROADCAST_S:
        return sent
    trainer.broadcast()
    return time.monotonic()


def throughput(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """(a) Steps a second from workers as fast as they can be."""
    rows = []
    for workers in WORKERS:
        for name in CANDIDATES:
            found = run(name, folder, workers, seconds, FAST_EPISODE, 0.0)
            rows.append(
                {"candidate": name, "workers": workers, "steps_per_s": sum(len(o.made) for o in found) / seconds}
            )
    return rows


def delays(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """(c) How late steps come, from workers at 20 Hz."""
    rows = []
    for name in CANDIDATES:
        found = run(name, folder, max(WORKERS), seconds, REAL_EPISODE, 1.0 / HERTZ)
        late = np.concatenate([one.at - one.made for one in found])
        ends = np.concatenate([(one.at - one.made)[one.ends] for one in found])
        row = {"candidate": name, "workers": max(WORKERS), "episodes": len(ends), "step_mean_s": late.mean()}
        rows.append(row | {"end_p50_ms": 1e3 * np.quantile(ends, 0.5), "end_max_ms": 1e3 * ends.max()})
    return rows


def sizes(folder: Path) -> list[dict[str, Any]]:
    """(b) Bytes of a step, as either pipeline serialises an episode."""
    site = Site(folder / "film.npz", 1, None, time.time(), FAST_EPISODE, 0.0)
    spec = make_spec(site.config("trainer").env)
    ours = _episode(OurFilm(site, spec), SampleCompressor(spec))
    message = Steps("w", "f", 1, 1, 1, ret=0.0, **pack_steps(ours.memory))
    theirs = _episode(TmrlFilm(site), get_local_buffer_sample_tm20_imgs)
    made = {"ours": len(dumps(to_plain(message))), "tmrl": len(pickle.dumps(theirs))}
    return [{"candidate": name, "bytes_per_step": size / FAST_EPISODE} for name, size in made.items()]


def _episode(env: Any, compress: Any) -> Buffer:
    buffer, rng, ended = Buffer(), np.random.default_rng(0), False
    buffer.append_sample(compress(None, env.reset()[0], 0.0, False, False, {}))
    while not ended:
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        buffer.append_sample(compress(action, obs, reward, terminated, truncated, info))
        ended = terminated or truncated
    return buffer


def tables(report: dict[str, Any]) -> list[str]:
    """Return the report for a person."""
    made = []
    if rows := report.get("a"):
        peer = {row["workers"]: row["steps_per_s"] for row in rows if row["candidate"] == "tmrl"}
        cells = [
            (row["candidate"], str(row["workers"]), f"{row['steps_per_s']:,.0f}",
             f"{row['steps_per_s'] / peer[row['workers']]:.2f}") for row in rows
        ]  # fmt: skip
        made.append(markdown(("(a) pipeline", "workers", "steps a second", "× tmrl"), cells))
    if rows := report.get("b"):
        peer_size = next(row["bytes_per_step"] for row in rows if row["candidate"] == "tmrl")
        cells = [
            (row["candidate"], f"{row['bytes_per_step']:,.0f}", f"{peer_size / row['bytes_per_step']:.1f}")
            for row in rows
        ]
        made.append(markdown(("(b) pipeline", "bytes a step", "× smaller"), cells))
    if rows := report.get("c"):
        cells = [
            (row["candidate"], str(row["workers"]), str(row["episodes"]), f"{row['step_mean_s']:.2f}",
             f"{row['end_p50_ms']:.0f}", f"{row['end_max_ms']:.0f}") for row in rows
        ]  # fmt: skip
        columns = (
            "(c) pipeline",
            "workers",
            "episodes",
            "delay of a step, mean s",
            "of an episode's end, p50 ms",
            "max ms",
        )
        made.append(markdown(columns, cells))
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--only", default="a,b,c", help="sections, such as a,b")
    args_parser.add_argument("--seconds", type=float, default=15.0, help="of every measurement; c takes twice as many")
    args = args_parser.parse_args(arguments)
    wanted = args.only.split(",")
    if unknown := set(wanted) - {"a", "b", "c"}:
        args_parser.error(f"--only {args.only}: no section {', '.join(sorted(unknown))}; choose of a,b,c")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of tlspyo, which tells of every message before it is connected
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_keys(folder / "keys")
        parts.record(folder / "film.npz")
        sections = {
            "a": lambda: throughput(folder, args.seconds),
            "b": lambda: sizes(folder),
            "c": lambda: delays(folder, 2 * args.seconds),
        }
        report = {"benchmark": "network", **machine(), **{name: sections[name]() for name in wanted}}
    publish(report, tables(report), args.out)
    return report


if __name__ == "__main__":  # processes are spawned, and import this file
    main()
