"""Rollout worker of a distributed run: tmrl's ``RolloutWorker`` with the messages of this package."""

import json
import os
import platform
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
from rich.console import Console

from app.config.schema import NetworkConfig
from app.core.console import print_line
from app.core.tmrl_api import RolloutWorker, TorchActorModule
from app.distributed.limited_log import LimitedLog
from app.distributed.messages import (
    EpisodeMessage,
    EvaluationResult,
    Heartbeat,
    MessageError,
    TrainerStatus,
    Weights,
    decode_message,
    encode_message,
    load_weights,
    pack_episode,
)
from app.distributed.service import TRAINERS, WORKERS
from app.distributed.transport import make_endpoint
from app.envs.spec import ObservationSpec
from app.evaluation.episodes import Start, run_episodes
from app.replay.row_format import RowFormat, SampleCompressor
from app.runs.fingerprint import fingerprint_digest, require_same_fingerprint
from app.training.rollout import is_deterministic_episode

_HEARTBEAT_INTERVAL_S = 1.0
_RARE_HEARTBEAT_INTERVAL_S = 10.0  # while no trainer answers, because the server stores all heartbeats
_RARE_HEARTBEAT_SHARE = 0.5  # of the timeout, at most: the trainer takes a rarer heartbeat for none
_RESEND_INTERVAL_S, _MAX_RESEND_INTERVAL_S = 5.0, 60.0  # until an episode is sent again; doubled after each time
_PAUSE_S = 0.02
_REPORT_INTERVAL_S = 10.0


@dataclass
class _SentEpisode:
    """Episode that was sent and that no checkpoint contains yet.

    Attributes:
        message: The episode.
        size: Size in bytes.
        sent: Time when it was last sent, in s.
        resend_after: Time until it is sent again, in s.
    """

    message: EpisodeMessage
    size: int
    sent: float
    resend_after: float


class NetworkWorker(RolloutWorker):
    """Collects complete episodes with one actor each, and keeps each until a checkpoint of the trainer contains it.

    Args:
        network: Address, password and limits.
        fingerprint: Fingerprint of the run as JSON; it must be that of the trainer.
        env: Environment.
        spec: Observation contract of the environment.
        make_actor: Returns the actor for ``observation_space`` and ``action_space``.
        real_time: Whether the environment runs in real time; it measures its own timing then.
        device: Device of the actor.
        console: Console for messages.
        check: Called between any two steps; may raise to end the work.
    """

    def __init__(
        self,
        network: NetworkConfig,
        fingerprint: str,
        env: gymnasium.Env,
        spec: ObservationSpec,
        make_actor: Callable[..., TorchActorModule],
        real_time: bool,
        device: str,
        console: Console,
        check: Callable[[], None],
    ):
        super().__init__(
            env_cls=lambda: env,
            actor_module_cls=make_actor,
            sample_compressor=SampleCompressor(spec),
            device=device,
            model_path=os.devnull,  # no weights to begin with, and none are written
            standalone=True,  # because tmrl's endpoint would unpickle what it receives
        )
        self.name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._endpoint = make_endpoint(network, WORKERS)
        self._network, self._row_format, self._real_time = network, RowFormat.of(spec), real_time
        self._console, self._check = console, check
        self._refusals = LimitedLog(lambda line: print_line(console, line, "red"))
        self._fingerprint, self._digest = fingerprint, fingerprint_digest(fingerprint)
        self._inbox: list[TrainerStatus | Weights] = []  # received during an episode, the newest of each kind
        self._status: TrainerStatus | None = None
        self._session, self._generation, self._actor_version = "", "", 0
        self._foreign_session = ""  # of a trainer with another fingerprint
        self._unsaved: deque[_SentEpisode] = deque()
        self._episode_number = 0
        self._results: list[EvaluationResult] = []  # of the current evaluation
        self._results_sent = 0.0
        self._episodes = self._reported_episodes = self._steps = 0
        self._heartbeat_sent = self._reported = -float("inf")
        self._last_contact = time.monotonic()  # with a trainer of this fingerprint
        self._trainer_missing = False

    def serve(self) -> None:
        """Collect and evaluate until the trainer has finished.

        Raises:
            UserError: The trainer has another fingerprint, or the environment cannot continue.
        """
        while not (self._status and self._status.finished and self._actor_version):
            self._check()
            self.update_actor_weights()
            if (deterministic := self._wanted_evaluation()) is not None:
                self._evaluate(deterministic)
            elif self._may_collect():
                self.collect_train_episode()
                self.send_and_clear_buffer()
            else:
                time.sleep(_PAUSE_S)
            self._keep_in_touch()

    def step(self, obs: Any, test: bool, collect_samples: bool, last_step: bool = False) -> tuple[Any, ...]:
        """Take a step as tmrl does, but some episodes deterministically, and stay in contact with the trainer."""
        deterministic = test or is_deterministic_episode(self._episode_number + 1, self._status.deterministic_share)
        result = super().step(obs, deterministic, collect_samples, last_step)
        self._between_steps()
        return result

    def send_and_clear_buffer(self) -> None:
        """Send the episode in the buffer, and keep it until a checkpoint contains it."""
        buffer = self.buffer
        oldest_kept = self._oldest_kept()
        self._episode_number += 1
        message = EpisodeMessage(
            worker=self.name,
            fingerprint=self._digest,
            number=self._episode_number,
            oldest_kept=oldest_kept,
            actor_version=self._actor_version,
            episode_return=float(buffer.stat_train_return),
            **pack_episode(buffer.memory, self._row_format),
        )
        buffer.clear()
        size = len(message.rows) + len(message.frames)
        self._unsaved.append(_SentEpisode(message, size, time.monotonic(), _RESEND_INTERVAL_S))
        self._send(message)
        self._episodes += 1
        self._steps += message.row_count - 1

    def update_actor_weights(self, verbose: bool = True, blocking: bool = False) -> int:
        """Process what was received, and act with the newest actor from now on; returns the number of new actors.

        Args:
            verbose: Ignored; part of tmrl's interface.
            blocking: Ignored; part of tmrl's interface.
        """
        self._receive()
        messages, self._inbox = self._inbox, []
        newest: Weights | None = None
        for message in messages:
            if not self._has_our_fingerprint(message):
                continue
            if message.session != self._session:  # the trainer was started again; its records count, not ours
                self._session, self._actor_version, self._status, newest = message.session, 0, None, None
                self._resend_soon()
            if isinstance(message, Weights):
                newest = message
            else:
                self._apply_status(message)
        return int(newest is not None and self._load_weights(newest))

    def print_timing(self) -> None:
        """Print how a real-time environment has kept time."""
        if self._real_time:
            timing = self.env.timing
            print_line(
                self._console, f"Durations of the steps:\n{timing.format_histogram()}\n  {timing.format_summary()}"
            )

    def close(self) -> None:
        """Close the environment and the connection."""
        self.env.close()
        self._endpoint.stop()

    # --- messages of the trainer -----------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Put what has arrived into the inbox, which is read between two episodes."""
        for data in self._endpoint.receive_all():
            try:
                message = decode_message(data)
                if not isinstance(message, (TrainerStatus, Weights)):
                    raise MessageError(f"trainers do not send a message of kind {message.kind}")
            except MessageError as error:
                self._refusals.add_once(f"A message from {self._network.host} was ignored: {error}.")
                continue
            self._inbox = [*(other for other in self._inbox if other.kind != message.kind), message]
            if message.fingerprint == self._digest:
                if self._trainer_missing:
                    self._resend_soon()
                self._last_contact, self._trainer_missing = time.monotonic(), False

    def _has_our_fingerprint(self, message: TrainerStatus | Weights) -> bool:
        """Return whether the trainer has the fingerprint of this worker.

        Its first status may have been left on the server by a trainer that has ended; the second one raises.

        Raises:
            UserError: With the differences between both fingerprints.
        """
        if message.fingerprint == self._digest:
            return True
        if isinstance(message, TrainerStatus) and self._foreign_session != message.session:
            self._foreign_session = message.session
        elif isinstance(message, TrainerStatus):
            require_same_fingerprint(
                f"The run of the trainer at {self._network.host}:{self._network.port}",
                json.loads(message.fingerprint_json),
                json.loads(self._fingerprint),
                "Start this worker with the trainer's own settings.",
            )
        return False

    def _load_weights(self, weights: Weights) -> bool:
        """Load the weights into the actor; return whether they fit."""
        try:
            load_weights(self.actor, weights.data)
        except MessageError as error:
            self._refusals.add_once(f"Weights were ignored: {error}.")
            return False
        self._actor_version = weights.actor_version
        return True

    def _apply_status(self, status: TrainerStatus) -> None:
        """Delete episodes that are no longer needed, and send again what has not arrived."""
        if self._status is None or status.evaluation != self._status.evaluation:
            self._results = []
        if status.generation != self._generation:  # the kept episodes belong to another run, or to a cleared replay
            self._generation = status.generation
            self._unsaved.clear()
        self._status = status
        self._resend_results(status.evaluation_results.get(self.name, 0))
        saved = status.saved.get(self.name, 0)
        while self._unsaved and self._unsaved[0].message.number <= saved:
            self._unsaved.popleft()
        self._resend_episodes(status.received.get(self.name, 0))

    # --- messages to the trainer -----------------------------------------------------------------------------------

    def _send(self, message: Heartbeat | EpisodeMessage | EvaluationResult) -> None:
        self._endpoint.produce(encode_message(message), TRAINERS)

    def _resend_episodes(self, received: int) -> None:
        """Send overdue episodes again: the server died, or the trainer was resumed from an earlier checkpoint."""
        now = time.monotonic()
        for episode in self._unsaved:
            if episode.message.number > received and now - episode.sent >= episode.resend_after:
                episode.sent = now
                episode.resend_after = min(2 * episode.resend_after, _MAX_RESEND_INTERVAL_S)
                self._send(episode.message)

    def _resend_soon(self) -> None:
        """Wait no longer than at first until an episode is sent again: the trainer is back."""
        for episode in self._unsaved:
            episode.resend_after = _RESEND_INTERVAL_S

    def _resend_results(self, received: int) -> None:
        if received < len(self._results) and time.monotonic() - self._results_sent >= _RESEND_INTERVAL_S:
            for result in self._results:
                self._send_result(result)

    def _send_result(self, result: EvaluationResult) -> None:
        self._results_sent = time.monotonic()
        self._send(result)

    # --- episodes ----------------------------------------------------------------------------------------------------

    def _may_collect(self) -> bool:
        """Return whether the trainer and the memory limit allow another episode."""
        status = self._status
        if status is None or not self._actor_version or status.finished:
            return False
        if sum(episode.size for episode in self._unsaved) > self._network.backlog_mb * 1_000_000:
            return False
        if status.steps_ahead is None:
            return True
        received = status.received.get(self.name, 0)
        ahead = sum(one.message.row_count - 1 for one in self._unsaved if one.message.number > received)
        return ahead < status.steps_ahead

    def _wanted_evaluation(self) -> bool | None:
        """Return whether a deterministic (True) or a stochastic (False) evaluation episode is wanted; None: neither."""
        status = self._status
        if status is None or not status.evaluation or not self._actor_version:
            return None
        if self._actor_version != status.actor_version:
            return None
        deterministic, stochastic = status.evaluation_episodes.get(self.name, (0, 0))
        for mode, wanted in ((True, deterministic), (False, stochastic)):
            if sum(result.deterministic is mode for result in self._results) < wanted:
                return mode
        return None

    def _evaluate(self, deterministic: bool) -> None:
        """Drive one evaluation episode, and send its result."""
        number = self._status.evaluation
        [episode] = run_episodes(
            [self.env],
            [Start()],
            lambda _, observations: [self.act(observations[0], test=deterministic)],
            before_step=self._between_steps,
        )
        count = len(self._results) + 1
        self._results.append(EvaluationResult(self.name, self._digest, number, count, deterministic, episode))
        self._send_result(self._results[-1])

    # --- contact -----------------------------------------------------------------------------------------------------

    def _oldest_kept(self) -> int:
        return self._unsaved[0].message.number if self._unsaved else self._episode_number + 1

    def _between_steps(self) -> None:
        self._check()
        self._receive()
        self._keep_in_touch()

    def _keep_in_touch(self) -> None:
        """Send a heartbeat when it is due, and print progress or a missing trainer."""
        now = time.monotonic()
        self._report_missing_trainer(now)
        interval = _HEARTBEAT_INTERVAL_S
        if self._trainer_missing:
            interval = min(_RARE_HEARTBEAT_INTERVAL_S, _RARE_HEARTBEAT_SHARE * self._network.timeout_s)
        if now - self._heartbeat_sent >= interval:
            self._heartbeat_sent = now
            self._send(Heartbeat(self.name, self._digest, self._actor_version, self._oldest_kept()))
        if now - self._reported >= _REPORT_INTERVAL_S and self._episodes > self._reported_episodes:
            self._reported, self._reported_episodes = now, self._episodes
            timing = f"; {self.env.timing.format_summary()}" if self._real_time else ""
            text = f"{self._episodes} episodes, {self._steps:,} steps, actor {self._actor_version}{timing}"
            print_line(self._console, text)

    def _report_missing_trainer(self, now: float) -> None:
        missing = now - self._last_contact > self._network.timeout_s
        if missing and not self._trainer_missing:
            print_line(
                self._console,
                f"No message from a trainer for {self._network.timeout_s:g} s. Check that the trainer runs, that the "
                f"server at {self._network.host}:{self._network.port} runs, and that network.password and the "
                "certificates are the same everywhere. Still trying.",
                "yellow",
            )
        self._trainer_missing = missing
