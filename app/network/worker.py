"""The worker's side of the network: tmrl's ``RolloutWorker`` with our messages."""

import json
import os
import platform
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console

from app.config.schema import Config
from app.envs.factory import make_env
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.network.identity import digest, keys_of
from app.network.messages import (
    Hello,
    MessageError,
    Note,
    Result,
    Steps,
    Weights,
    from_plain,
    pack_steps,
    to_plain,
    unpack_weights,
)
from app.network.transport import TRAINERS, WORKERS, make_endpoint
from app.replay.compress import SampleCompressor
from app.reporting.formatting import tell
from app.runs.fingerprint import refuse_other
from app.tmrl_api import RolloutWorker
from app.training.evaluation import Start, episode_of

_HELLO_S = 1.0
_LONELY_HELLO_S = 10.0  # while no trainer answers: the server keeps them all
_LONELY_SHARE = 0.5  # of the patience, at most: who says hello less often counts as gone
_RESEND_S = 5.0  # after so long without being received an episode is sent again; then twice as long
_PAUSE_S = 0.02
_TELL_S = 10.0


@dataclass
class _Parcel:
    """An episode that was sent and is in no checkpoint yet.

    Attributes:
        message: the episode.
        size: bytes.
        sent: when, s.
        wait: s until it is sent again.
    """

    message: Steps
    size: int
    sent: float
    wait: float = _RESEND_S


class NetworkWorker(RolloutWorker):
    """Drives whole episodes with one actor each, and keeps each until the trainer's checkpoint holds it.

    Args:
        config: of the run; its seed is mixed with random numbers, so that no two workers drive alike.
        spec: the observation.
        device: where the actor runs.
        console: where to tell.
        check: called between any two steps; may raise to end the work.
    """

    def __init__(self, config: Config, spec: ObservationSpec, device: str, console: Console, check: Callable[[], None]):
        seed = secrets.randbits(32)
        torch.manual_seed(seed)
        super().__init__(
            env_cls=partial(make_env, config.env, config.env.train_tracks, seed),
            actor_module_cls=partial(DrivingActor, config=config, spec=spec),
            sample_compressor=SampleCompressor(spec),
            device=device,
            model_path=os.devnull,  # nothing to begin with, and nothing is written
            standalone=True,  # tmrl's endpoint would unpickle what comes in
        )
        self._RolloutWorker__endpoint = self._endpoint = make_endpoint(config.network, WORKERS)
        self.standalone = False
        self.name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._cfg, self._console, self._check = config.network, console, check
        self._real_time = config.env.real_time
        self._keys = keys_of(config)
        self._digest = digest(self._keys)
        self._note: Note | None = None
        self._fresh: Weights | None = None  # has come and drives from the next episode on
        self._inbox: list[Note | Weights] = []  # what came during an episode; the newest of each kind
        self._session, self._life, self._version = "", "", 0
        self._stranger = ""  # session of a trainer that trains another thing
        self._parcels: deque[_Parcel] = deque()
        self._number = 0
        self._results: list[Result] = []  # of the present request
        self._results_sent = 0.0
        self._episodes = self._episodes_told = self._steps = 0
        self._said = self._told = -float("inf")
        self._heard = time.monotonic()
        self._lonely = False

    def serve(self) -> None:
        """Drive until the trainer has finished.

        Raises:
            UserError: the trainer trains another thing, or the environment cannot go on.
        """
        while not (self._note and self._note.finished and self._version):
            self._check()
            self.update_actor_weights()
            if (test := self._wanted_evaluation()) is not None:
                self._evaluate(test)
            elif self._may_drive():
                self.collect_train_episode()
                self.send_and_clear_buffer()
            else:
                time.sleep(_PAUSE_S)
            self._keep_in_touch()

    def step(self, obs, test, collect_samples, last_step=False):
        """Tmrl's step; between two of them the trainer is told that this worker lives."""
        result = super().step(obs, test, collect_samples, last_step)
        self._check()
        self._listen()
        self._keep_in_touch()
        return result

    def send_and_clear_buffer(self) -> None:
        """Send the episode in the buffer."""
        buffer, now = self.buffer, time.monotonic()
        first = self._first()
        self._number += 1
        message = Steps(
            worker=self.name,
            fingerprint=self._digest,
            number=self._number,
            first=first,
            version=self._version,
            ret=float(buffer.stat_train_return),
            **pack_steps(buffer.memory),
        )
        buffer.clear()
        self._parcels.append(_Parcel(message, len(message.rows) + len(message.frames), now))
        self._endpoint.produce(to_plain(message), TRAINERS)
        self._episodes += 1
        self._steps += message.count - 1

    def update_actor_weights(self, verbose: bool = True, blocking: bool = False) -> int:
        """Read what has come, and drive from here on with the newest actor; returns how many have come."""
        count = 0
        self._listen()
        came, self._inbox = self._inbox, []
        for message in came:
            if not self._is_for_us(message):
                continue
            if message.session != self._session:  # another start of the trainer: what it knows counts, not what we know
                self._session, self._version, self._note, self._fresh = message.session, 0, None, None
            if isinstance(message, Weights):
                self._fresh, count = message, count + 1
            else:
                self._follow(message)
        if self._fresh is not None:
            self._take_over(self._fresh)
            self._fresh = None
        return count

    def close(self) -> None:
        """Leave the server, and the environment."""
        if self._real_time:
            tell(
                self._console, f"how long the steps lasted:\n{self.env.health.histogram()}\n  {self.env.health.line()}"
            )
        self.env.close()
        self._endpoint.stop()

    # --- what comes ------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take in what has come, to be read between two episodes; older news of the same kind is no news."""
        for message in self._receive():
            self._inbox = [*(other for other in self._inbox if other.kind != message.kind), message]
            if message.fingerprint == self._digest:
                self._heard, self._lonely = time.monotonic(), False

    def _receive(self) -> list[Note | Weights]:
        try:
            messages = [from_plain(data) for data in self._endpoint.receive_all()]
            if odd := [message for message in messages if not isinstance(message, (Note, Weights))]:
                raise MessageError(f"a worker does not take a {odd[0].kind}")
        except (MessageError, ValueError) as error:
            tell(self._console, f"what came from {self._cfg.host} is passed over: {error}", "red")
            return []
        return messages

    def _is_for_us(self, message: Note | Weights) -> bool:
        """Whether the trainer trains what we drive; its second note, which says what it trains instead, raises.

        The first may have lain on the server since that trainer has ended.
        """
        if message.fingerprint == self._digest:
            return True
        if isinstance(message, Note) and self._stranger != message.session:
            self._stranger = message.session
        elif isinstance(message, Note):
            refuse_other(
                f"what the trainer behind {self._cfg.host}:{self._cfg.port} trains",
                json.loads(message.keys),
                json.loads(self._keys),
                "Start this worker with the trainer's own settings.",
            )
        return False

    def _take_over(self, weights: Weights) -> None:
        try:
            self.actor.load_state_dict(unpack_weights(weights.data))
        except (MessageError, RuntimeError) as error:
            tell(self._console, f"weights that came are passed over: {str(error).splitlines()[0]}", "red")
            return
        self._version = weights.version

    def _follow(self, note: Note) -> None:
        if self._note is None or note.request != self._note.request:
            self._results = []
        if note.life != self._life:  # the episodes that are left were driven for something else
            self._life = note.life
            self._parcels.clear()
        self._note = note
        self._send_results_again(note.brought.get(self.name, 0))
        durable = note.durable.get(self.name, 0)
        while self._parcels and self._parcels[0].message.number <= durable:
            self._parcels.popleft()
        self._send_again(note.received.get(self.name, 0))

    def _send_again(self, received: int) -> None:
        """Send what should have arrived by now: the server died, or the trainer began from an earlier checkpoint."""
        now = time.monotonic()
        for parcel in self._parcels:
            if parcel.message.number > received and now - parcel.sent >= parcel.wait:
                parcel.sent, parcel.wait = now, 2 * parcel.wait
                self._endpoint.produce(to_plain(parcel.message), TRAINERS)

    def _send_results_again(self, brought: int) -> None:
        if brought < len(self._results) and time.monotonic() - self._results_sent >= _RESEND_S:
            for result in self._results:
                self._send_result(result)

    def _send_result(self, result: Result) -> None:
        self._results_sent = time.monotonic()
        self._endpoint.produce(to_plain(result), TRAINERS)

    # --- what to do ----------------------------------------------------------------------------------------

    def _may_drive(self) -> bool:
        note = self._note
        if note is None or not self._version or note.finished:
            return False
        if sum(parcel.size for parcel in self._parcels) > self._cfg.backlog_mb * 1_000_000:
            return False
        if note.credit is None:
            return True
        received = note.received.get(self.name, 0)
        ahead = sum(parcel.message.count - 1 for parcel in self._parcels if parcel.message.number > received)
        return ahead < note.credit

    def _wanted_evaluation(self) -> bool | None:
        """Return whether an episode with the mode (True) or with samples (False) is wanted from us; None: neither."""
        note = self._note
        if note is None or not note.request or not self._version or self._version != note.version:
            return None
        mode, samples = note.episodes.get(self.name, (0, 0))
        wanted = {True: mode, False: samples}
        driven = {test: sum(result.test is test for result in self._results) for test in wanted}
        return next((test for test in (True, False) if driven[test] < wanted[test]), None)

    def _evaluate(self, test: bool) -> None:
        request = self._note.request
        obs, _ = self.reset(collect_samples=False)
        ret, length, ended = 0.0, 0, False
        while not ended:
            obs, reward, terminated, truncated, info = self.step(obs, test=test, collect_samples=False)
            ret, length, ended = ret + reward, length + 1, terminated or truncated
        episode = episode_of(Start(0, 0.0, 0), ret, length, info)  # a game has no starts to choose from
        self._results.append(Result(self.name, self._digest, request, len(self._results) + 1, test, episode))
        self._send_result(self._results[-1])

    # --- keeping in touch ----------------------------------------------------------------------------------

    def _first(self) -> int:
        return self._parcels[0].message.number if self._parcels else self._number + 1

    def _keep_in_touch(self) -> None:
        now = time.monotonic()
        lonely = now - self._heard > self._cfg.patience_s
        if lonely and not self._lonely:
            tell(
                self._console,
                f"no word from a trainer through {self._cfg.host}:{self._cfg.port} for {self._cfg.patience_s:g} s. It "
                "does not run, or the server does not, or network.password or the certificates differ. Still trying.",
                "yellow",
            )
        self._lonely = lonely
        pause = min(_LONELY_HELLO_S, _LONELY_SHARE * self._cfg.patience_s) if lonely else _HELLO_S
        if now - self._said >= pause:
            self._said = now
            hello = Hello(self.name, self._digest, self._version, self._first())
            self._endpoint.produce(to_plain(hello), TRAINERS)
        if now - self._told >= _TELL_S and self._episodes > self._episodes_told:
            self._told, self._episodes_told = now, self._episodes
            tell(
                self._console,
                f"{self._episodes} episodes, {self._steps:,} steps, actor {self._version}{self._rhythm()}",
            )

    def _rhythm(self) -> str:
        return f"; {self.env.health.line()}" if self._real_time else ""
