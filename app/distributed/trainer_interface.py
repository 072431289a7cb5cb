"""The trainer's connection to its workers: tmrl's ``TrainerInterface`` with the messages of this package."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from app.config.schema import NetworkConfig
from app.core.console import print_line
from app.core.tmrl_api import Buffer, TrainerInterface
from app.distributed.episode_queue import RECEIVED, EpisodeQueue, dropped_episodes
from app.distributed.flow_control import FlowControl
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
    pack_weights,
    unpack_episode,
)
from app.distributed.service import TRAINERS, WORKERS
from app.distributed.transport import make_endpoint
from app.models.actor import DrivingActor
from app.replay.row_format import RowFormat
from app.runs.fingerprint import fingerprint_digest

_STATUS_INTERVAL_S = 0.5
_RECEIVE_INTERVAL_S = 0.05
_IDLE_PAUSE_S = 0.01
_WEIGHTS_FOR_NEW_WORKERS_S = 2.0  # between two broadcasts that only new workers need
_WEIGHTS_TIMEOUT_S = 10.0  # after which weights that a worker does not report count as lost on the way


class NetworkTrainerInterface(TrainerInterface):
    """Receives complete episodes from any number of workers, in the order of their arrival.

    The rows of an episode stay together, so that the replay can rebuild its histories. Workers keep an episode until a
    checkpoint contains it, and send it again if it does not arrive.

    Args:
        network: Address, password and limits.
        fingerprint: Fingerprint of the run as JSON; workers with another one are refused.
        row_format: Row format of the run's observation.
        real_time: Whether the environment runs in real time, so that workers never wait.
        deterministic_share: Share of the training episodes that workers drive with the deterministic action.
        steps_due: Returns how many environment steps are missing before the next update; negative if there are more
            than enough.
        console: Console for messages about workers.
        check: Called while there is nothing to do; may raise to end the run.
        starts_workers: Whether this command starts the workers itself.
    """

    def __init__(
        self,
        network: NetworkConfig,
        fingerprint: str,
        row_format: RowFormat,
        real_time: bool,
        deterministic_share: float,
        steps_due: Callable[[], int],
        console: Console,
        check: Callable[[], None],
        starts_workers: bool = False,
    ):
        # Not tmrl's constructor: its endpoint would unpickle what it receives.
        self._endpoint = make_endpoint(network, TRAINERS)
        self._network, self._row_format, self._real_time = network, row_format, real_time
        self._deterministic_share = deterministic_share
        self._steps_due, self._console, self._check, self._starts_workers = steps_due, console, check, starts_workers
        self._fingerprint, self._digest = fingerprint, fingerprint_digest(fingerprint)
        self._session, self._generation = secrets.token_hex(8), secrets.token_hex(8)
        self._flow = FlowControl(network.timeout_s, network.max_workers)
        self._episodes = EpisodeQueue(row_format)
        self._weights: bytes | None = None  # of the newest actor
        self._actor_version = 0
        self._evaluation: tuple[int, Mapping[str, tuple[int, int]]] = (0, {})  # number, episodes for each worker
        self._results: list[EvaluationResult] = []
        self._workers: set[str] = set()  # that were connected when the last status was sent
        self._refusals = LimitedLog(lambda line: print_line(console, line, "red"))
        self._status_sent = self._asked = self._weights_sent = -float("inf")
        self._last_contact = time.monotonic()  # with any worker
        self._workers_missing = False
        self._saving: dict[str, int] = {}

    # --- called by the loop ---------------------------------------------------------------------------------

    def retrieve_buffer(self) -> Buffer:
        """Return some steps of an episode, its reset included; empty if there are none."""
        self.idle()
        buffer = self._episodes.take()
        if not buffer.memory:
            self._check()
            time.sleep(_IDLE_PAUSE_S)
        return buffer

    def broadcast_model(self, actor: DrivingActor) -> None:
        """Send the actor, for the workers' next episodes, unless the last one was sent a moment ago."""
        now = time.monotonic()
        elapsed = now - self._weights_sent
        # Not before some worker has the last one: on a slow line, weights would pile up.
        arrived = elapsed >= _WEIGHTS_TIMEOUT_S or bool(self._flow.with_actor(self._actor_version, now))
        if not self._actor_version or (elapsed >= self._network.model_interval_s and arrived):
            self.send_model(actor)

    # --- called by trainer and evaluator ------------------------------------------------------------------------

    def resume(self, make_actor: Callable[[], DrivingActor]) -> None:
        """Send the actor of a resumed run: workers wait for it, and the loop waits for their steps."""
        self.send_model(make_actor())

    def send_model(self, actor: DrivingActor) -> None:
        """Send this actor now; returns at once."""
        self._actor_version += 1
        self._weights = pack_weights(actor)
        self._send_weights()

    def idle(self) -> None:
        """Process messages, and send the status when it is due; cheap enough to be called at every step."""
        now = time.monotonic()
        if now - self._asked >= _RECEIVE_INTERVAL_S:
            self._asked = now
            for data in self._endpoint.receive_all():
                self._process(data, now)
            self._endpoint.notify({TRAINERS: -1})
        if now - self._status_sent >= _STATUS_INTERVAL_S:
            self._update_status(now)

    def request_evaluation(self, number: int, episodes: Mapping[str, tuple[int, int]]) -> None:
        """Ask workers for evaluation episodes with the newest actor.

        Args:
            number: Number of the evaluation; 0 ends it.
            episodes: For each worker, how many to drive: deterministic, and with sampled actions.
        """
        if number != self._evaluation[0]:
            self._results.clear()
        self._evaluation = number, episodes

    def results(self) -> list[EvaluationResult]:
        """Return the results of the current evaluation that have arrived."""
        return [result for result in self._results if result.evaluation == self._evaluation[0]]

    def workers(self) -> list[str]:
        """Return the names of the connected workers."""
        return self._flow.connected(time.monotonic())

    def begin_episode(self) -> None:
        """Drop all steps that were collected for a replay that was cleared; the new generation tells workers to."""
        self._generation = secrets.token_hex(8)
        self._episodes.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain numbers: which episodes have arrived, and those that are not in the replay yet."""
        self._saving = self._flow.received()
        return {
            "life": self._generation,  # the name in checkpoints of earlier versions, which must stay readable
            "received": self._saving,
            **self._episodes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue from what ``state_dict`` returned; of a local interface, only received episodes that it still had.

        Returns:
            Whether the episode continues whose first rows are in the replay.
        """
        if "received" in state:
            self._generation = state["life"]
            self._flow.load(state["received"])
            queued = state
        else:
            queued = state.get(RECEIVED)
        if queued is None:
            return False
        try:
            self._episodes.load_state_dict(queued)
        except MessageError:
            print_line(self._console, dropped_episodes(queued), "yellow")
            return False
        return True

    def saved(self) -> None:
        """Record that a checkpoint contains the last ``state_dict``: workers may delete the episodes in it."""
        self._flow.mark_saved(self._saving)
        self._status_sent = -float("inf")

    def close(self, finished: bool) -> None:
        """Close the connection.

        Args:
            finished: Whether the run has ended; its workers then end, too.
        """
        if finished:
            self._send_status(time.monotonic(), finished=True)
        self._endpoint.stop()

    # --- messages of workers ---------------------------------------------------------------------------------------

    def _process(self, data: bytes, now: float) -> None:
        try:
            message = decode_message(data)
            if not isinstance(message, (Heartbeat, EpisodeMessage, EvaluationResult)):
                raise MessageError(f"workers do not send a message of kind {message.kind}")
        except MessageError as error:
            self._refusals.add_once(f"A message was ignored: {error}.")
            return
        if message.fingerprint != self._digest:
            self._refusals.add_once(
                f"Worker {message.worker} was refused: it has another environment, observation or model. Its own "
                "console names the differences."
            )
        elif isinstance(message, EvaluationResult):
            self._add_result(message)
        else:
            self._register(message, now)

    def _add_result(self, result: EvaluationResult) -> None:
        """Keep the result of an episode that was asked for; what comes twice counts once."""
        number, episodes = self._evaluation
        deterministic, stochastic = episodes.get(result.worker, (0, 0))
        known = [other for other in self.results() if other.worker == result.worker]
        missing = (deterministic if result.deterministic else stochastic) - sum(
            other.deterministic is result.deterministic for other in known
        )
        if result.evaluation == number and missing > 0 and result.number not in {other.number for other in known}:
            self._results.append(result)

    def _register(self, message: Heartbeat | EpisodeMessage, now: float) -> None:
        worker = message.worker
        if not self._flow.admit(worker, now):
            self._refusals.add_once(
                f"Worker {worker} was refused: network.max_workers = {self._network.max_workers} others are connected. "
                "It is accepted as soon as one of them has gone."
            )
            return
        if lost := self._flow.register(worker, message.actor_version, message.oldest_kept, now):
            print_line(
                self._console, f"{lost} episodes of worker {worker} are newer than the checkpoint and lost.", "yellow"
            )
        if isinstance(message, EpisodeMessage):
            self._queue_episode(message)

    def _queue_episode(self, episode: EpisodeMessage) -> None:
        if not self._episodes.fits(episode, self._network.backlog_mb * 1_000_000):
            return  # it counts as not received, and the worker sends it again
        try:
            unpack_episode(episode, self._row_format)  # an invalid episode must not count as received
        except MessageError as error:
            self._refusals.add_once(f"An episode of worker {episode.worker} was ignored: {error}.")
            return
        if self._flow.accept_episode(episode.worker, episode.number):
            self._episodes.append(episode)

    # --- messages to workers ----------------------------------------------------------------------------------------

    def _update_status(self, now: float) -> None:
        self._report_workers(now)
        if self._weights_needed(now):
            self._send_weights()
        self._send_status(now)

    def _send_status(self, now: float, finished: bool = False) -> None:
        self._status_sent = now
        number, episodes = self._evaluation
        status = TrainerStatus(
            session=self._session,
            generation=self._generation,
            fingerprint=self._digest,
            fingerprint_json=self._fingerprint,
            actor_version=self._actor_version,
            received=self._flow.received(),
            saved=self._flow.saved(),
            steps_ahead=self._steps_ahead(now),
            evaluation=number,
            evaluation_episodes=dict(episodes),
            evaluation_results=Counter(result.worker for result in self.results()),
            deterministic_share=self._deterministic_share,
            finished=finished,
        )
        self._endpoint.broadcast(encode_message(status), WORKERS)

    def _steps_ahead(self, now: float) -> int | None:
        """Return how many steps each worker may collect beyond those that have arrived; None for no limit."""
        if self._real_time:
            return None
        ahead = self._steps_due() + int(self._network.max_steps_ahead) - self._episodes.steps
        return self._flow.steps_per_worker(ahead, now)

    def _weights_needed(self, now: float) -> bool:
        """Return whether a worker has joined since the last broadcast, or one that must evaluate lacks the weights."""
        elapsed = now - self._weights_sent
        if self._actor_version and self._flow.with_actor(0, now):  # they have no actor of this session
            return elapsed >= _WEIGHTS_FOR_NEW_WORKERS_S
        lacking = len(self._flow.with_actor(self._actor_version, now)) < len(self._flow.connected(now))
        return self._evaluation[0] > 0 and lacking and elapsed >= _WEIGHTS_TIMEOUT_S

    def _send_weights(self) -> None:
        self._weights_sent = time.monotonic()
        weights = Weights(self._session, self._digest, self._actor_version, self._weights)
        self._endpoint.broadcast(encode_message(weights), WORKERS)

    def _report_workers(self, now: float) -> None:
        """Print who has joined or left since the last call, and what to do if no worker is connected."""
        workers = set(self._flow.connected(now))
        for total, worker in enumerate(sorted(workers - self._workers), len(workers & self._workers) + 1):
            print_line(self._console, f"Worker {worker} connected ({total} in total).", "green")
        for worker in sorted(self._workers - workers):
            print_line(self._console, f"Worker {worker} disconnected ({len(workers)} remaining).", "yellow")
        self._workers = workers
        self._last_contact = now if workers else self._last_contact
        missing = now - self._last_contact > self._network.timeout_s
        if missing and not self._workers_missing:
            hint = (
                "Those of this command are still starting, or cannot reach its server."
                if self._starts_workers
                else "Start workers with role=worker; if they run, check that the server at "
                f"{self._network.host}:{self._network.port} runs, and that network.password and the certificates are "
                "the same everywhere."
            )
            print_line(self._console, f"No worker is connected. {hint} Waiting.", "yellow")
        self._workers_missing = missing
