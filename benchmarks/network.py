"""Throughput, message size and delay of the network, compared with tmrl's own image pipeline.

    python benchmarks/network.py [--only a,b,c] [--seconds 15] [--out network.json]

    a  steps per second with 1, 2 and 4 workers that collect as fast as they can, from the environment to the replay
    b  bytes of a step on the wire
    c  delay from a step, and from the end of its episode, to the replay, with workers at 20 Hz

Server, workers and trainer are processes of their own on the loopback interface. Both pipelines replay the same
recording of env=sim with 64 × 64 pictures, act with a small network and fill their own replay. Ours consists of
role=worker, role=server and the trainer's interface with flow control and checkpoints, once with TLS and once without;
tmrl's of its RolloutWorker, Server and TrainerInterface with MemoryTMFull and the compressor of its image pipeline,
without TLS. The actor is broadcast every two seconds. Both send complete episodes.
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
from app.core.tmrl_api import Buffer, TrainerInterface
from app.distributed.certificates import make_keys
from app.distributed.messages import EpisodeMessage, encode_message, pack_episode
from app.distributed.trainer_interface import NetworkTrainerInterface
from app.distributed.transport import free_port
from app.envs.env_factory import make_spec
from app.models.actor import DrivingActor
from app.replay.buffer import ReplayMemory
from app.replay.row_format import RowFormat, SampleCompressor
from app.replay.storage import MemoryStorage
from app.runs.fingerprint import fingerprint_json
from benchmarks import network_parts as parts
from benchmarks.common import machine, markdown, parser, publish
from benchmarks.network_parts import PASSWORD, TMRL_HEADER, OurRecording, Site, SmallActor, TmrlRecording, processes
from benchmarks.tmrl_peer import MemoryTMFull, get_local_buffer_sample_tm20_imgs

WORKERS = (1, 2, 4)
HERTZ = 20
FAST_EPISODE, REAL_EPISODE = 200, 100  # steps
CAPACITY = 100_000  # steps of either replay
BROADCAST_INTERVAL_S = SAVE_INTERVAL_S = 2.0
START_TIMEOUT_S = 60.0  # until every worker has sent some episodes


class Arrived(NamedTuple):
    """Steps that have arrived in a replay. Times are in s, on the clock of the site.

    Attributes:
        created: (N,) Time when each step was taken.
        ends: (N,) bool, whether it ended its episode.
        arrived: Time when they were in the replay.
    """

    created: np.ndarray
    ends: np.ndarray
    arrived: float


class Ours:
    """Our pipeline, seen from the trainer."""

    run_worker, run_server = staticmethod(parts.run_our_worker), staticmethod(parts.run_our_server)

    def __init__(self, site: Site):
        config = site.config("trainer")
        self._site, spec = site, make_spec(config.env)
        self._interface = NetworkTrainerInterface(
            network=config.network,
            fingerprint=fingerprint_json(config),
            row_format=RowFormat.of(spec),
            real_time=False,
            deterministic_share=0.0,
            steps_due=lambda: 10**6,
            console=Console(quiet=True),
            check=lambda: None,
        )
        self._actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
        replay = ReplayConfig(capacity=CAPACITY, batch_size=1, recent_share=0.0, recent_rows=1, keep_after_trial=True)
        self._memory = ReplayMemory(spec, replay, 1, 0.99, (1,), 1, "cpu", seed=0, storage=MemoryStorage())
        self._saved = 0.0

    def broadcast(self) -> None:
        """Send the actor."""
        self._interface.send_model(self._actor)

    def take(self) -> Arrived:
        """Move what has arrived into the replay, and let workers delete what a checkpoint would contain."""
        buffer = self._interface.retrieve_buffer()
        self._memory.append(buffer)
        now = time.time() - self._site.began
        if now - self._saved > SAVE_INTERVAL_S:
            self._saved = now
            self._interface.state_dict()
            self._interface.saved()
        steps = [step for step in buffer.memory if step[0] is not None]
        created = np.array([step[1]["sensors"][0] for step in steps])
        return Arrived(created, np.array([step[3] or step[4] for step in steps], bool), now)

    def close(self) -> None:
        """Leave the server."""
        self._interface.close(finished=False)


class Tmrl:
    """Pipeline of tmrl, seen from the trainer."""

    run_worker, run_server = staticmethod(parts.run_tmrl_worker), staticmethod(parts.run_tmrl_server)

    def __init__(self, site: Site):
        self._site = site
        self._interface = TrainerInterface(
            server_ip="127.0.0.1", server_port=site.port, password=PASSWORD, local_com_port=free_port(),
            header_size=TMRL_HEADER, security=None, model_path=str(site.recording.with_name("trainer.tmod")),
        )  # fmt: skip
        env = TmrlRecording(site)
        self._actor = SmallActor(env.observation_space, env.action_space)
        self._memory = MemoryTMFull(memory_size=CAPACITY, batch_size=1, imgs_obs=4, act_buf_len=2)

    def broadcast(self) -> None:
        """Send the actor."""
        self._interface.broadcast_model(self._actor)

    def take(self) -> Arrived:
        """Move what has arrived into the replay."""
        buffer: Buffer = self._interface.retrieve_buffer()
        if buffer.memory:
            self._memory.append(buffer)
        else:
            time.sleep(0.01)  # as our interface does
        now = time.time() - self._site.began
        steps = [step for step in buffer.memory if step[0] is not None]
        created = np.array([step[1][0][0] for step in steps])
        return Arrived(created, np.array([step[3] or step[4] for step in steps], bool), now)

    def close(self) -> None:
        """Leave the server."""
        self._interface._TrainerInterface__endpoint.stop()  # tmrl's interface offers no other way


CANDIDATES: dict[str, tuple[type, bool]] = {"ours": (Ours, False), "ours, TLS": (Ours, True), "tmrl": (Tmrl, False)}


def run(name: str, folder: Path, workers: int, seconds: float, length: int, step_s: float) -> list[Arrived]:
    """Let workers collect, and return what arrived in ``seconds`` after all of them had started."""
    kind, tls = CANDIDATES[name]
    site = Site(folder / "recording.npz", free_port(), folder / "keys" if tls else None, time.time(), length, step_s)
    with processes(kind.run_server, *[kind.run_worker] * workers, site=site):
        trainer = kind(site)
        try:
            _wait_for_workers(trainer, workers, length)
            _collect(trainer, seconds / 3)  # episodes that had queued up before
            return _collect(trainer, seconds)
        finally:
            trainer.close()


def _wait_for_workers(trainer: Any, workers: int, length: int) -> None:
    """Wait for three episodes of every worker, on average."""
    steps, deadline, sent = 0, time.monotonic() + START_TIMEOUT_S, -BROADCAST_INTERVAL_S
    while steps < 3 * workers * length:
        sent = _broadcast(trainer, sent)
        steps += len(trainer.take().created)
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {steps} steps in {START_TIMEOUT_S:g} s")


def _collect(trainer: Any, seconds: float) -> list[Arrived]:
    start, sent, found = time.monotonic(), 0.0, []
    while time.monotonic() - start < seconds:
        sent = _broadcast(trainer, sent)
        found.append(trainer.take())
    return [one for one in found if len(one.created)]


def _broadcast(trainer: Any, sent: float) -> float:
    if time.monotonic() - sent < BROADCAST_INTERVAL_S:
        return sent
    trainer.broadcast()
    return time.monotonic()


def throughput(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """(a) Steps per second from workers that collect as fast as they can."""
    rows = []
    for workers in WORKERS:
        for name in CANDIDATES:
            found = run(name, folder, workers, seconds, FAST_EPISODE, 0.0)
            rows.append(
                {"candidate": name, "workers": workers, "steps_per_s": sum(len(o.created) for o in found) / seconds}
            )
    return rows


def delays(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """(c) Delay of steps from workers at 20 Hz."""
    rows = []
    for name in CANDIDATES:
        found = run(name, folder, max(WORKERS), seconds, REAL_EPISODE, 1.0 / HERTZ)
        delays_s = np.concatenate([one.arrived - one.created for one in found])
        ends = np.concatenate([(one.arrived - one.created)[one.ends] for one in found])
        row = {"candidate": name, "workers": max(WORKERS), "episodes": len(ends), "step_mean_s": delays_s.mean()}
        rows.append(row | {"end_p50_ms": 1e3 * np.quantile(ends, 0.5), "end_max_ms": 1e3 * ends.max()})
    return rows


def sizes(folder: Path) -> list[dict[str, Any]]:
    """(b) Bytes of a step, when each pipeline serialises an episode."""
    site = Site(folder / "recording.npz", 1, None, time.time(), FAST_EPISODE, 0.0)
    spec = make_spec(site.config("trainer").env)
    ours = _episode(OurRecording(site, spec), SampleCompressor(spec))
    message = EpisodeMessage("w", "f", 1, 1, 1, episode_return=0.0, **pack_episode(ours.memory, RowFormat.of(spec)))
    tmrls = _episode(TmrlRecording(site), get_local_buffer_sample_tm20_imgs)
    bytes_of = {"ours": len(encode_message(message)), "tmrl": len(pickle.dumps(tmrls))}
    return [{"candidate": name, "bytes_per_step": size / FAST_EPISODE} for name, size in bytes_of.items()]


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
    """Return the tables of a report."""
    found = []
    if rows := report.get("a"):
        peer = {row["workers"]: row["steps_per_s"] for row in rows if row["candidate"] == "tmrl"}
        cells = [
            (row["candidate"], str(row["workers"]), f"{row['steps_per_s']:,.0f}",
             f"{row['steps_per_s'] / peer[row['workers']]:.2f}") for row in rows
        ]  # fmt: skip
        found.append(markdown(("(a) pipeline", "workers", "steps per second", "× tmrl"), cells))
    if rows := report.get("b"):
        peer_size = next(row["bytes_per_step"] for row in rows if row["candidate"] == "tmrl")
        cells = [
            (row["candidate"], f"{row['bytes_per_step']:,.0f}", f"{peer_size / row['bytes_per_step']:.1f}")
            for row in rows
        ]
        found.append(markdown(("(b) pipeline", "bytes per step", "× smaller"), cells))
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
        found.append(markdown(columns, cells))
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    args_parser = parser(__doc__)
    args_parser.add_argument("--only", default="a,b,c", help="sections, such as a,b")
    args_parser.add_argument("--seconds", type=float, default=15.0, help="of every measurement; c takes twice as long")
    args = args_parser.parse_args(arguments)
    wanted = args.only.split(",")
    if unknown := set(wanted) - {"a", "b", "c"}:
        args_parser.error(f"--only {args.only}: no section {', '.join(sorted(unknown))}; choose from a,b,c")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # tmrl's tlspyo warns of every message before it is connected
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_keys(folder / "keys")
        parts.record(folder / "recording.npz")
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
