"""The trainer's side of the network: tmrl's ``TrainerInterface`` with our messages."""

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console

from app.config.schema import Config
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.network.codec import dumps, loads
from app.network.identity import digest, keys_of
from app.network.ledger import Ledger
from app.network.messages import (
    Hello,
    MessageError,
    Note,
    Result,
    Steps,
    Weights,
    from_plain,
    pack_weights,
    to_plain,
    unpack_steps,
)
from app.network.transport import TRAINERS, WORKERS, make_endpoint
from app.reporting.formatting import tell
from app.tmrl_api import Buffer, TrainerInterface
from app.training.local import AT_ONCE

_NOTE_S = 0.5  # between two notes to the workers
_ASK_S = 0.05  # between two requests for what has come
_PAUSE_S = 0.01  # when nothing has come
_LOST_S = 10.0  # after which weights that a worker does not seem to have count as lost on the way


class NetworkInterface(TrainerInterface):
    """Takes in whole episodes from any number of workers, in the order in which they come.

    An episode's rows stay together, so that the replay can rebuild its histories. What has come counts as received;
    workers keep it until a checkpoint holds it, and send again what did not arrive.

    Args:
        config: of the run.
        spec: the observation.
        due: environment steps to come before the next update is due; negative: so many are there already.
        console: where to tell who comes and goes.
        check: called while there is nothing to do; may raise to end the run.
    """

    def __init__(
        self,
        config: Config,
        spec: ObservationSpec,
        due: Callable[[], int],
        console: Console,
        check: Callable[[], None],
    ):
        # Not tmrl's constructor: its endpoint would unpickle what comes in.
        self._TrainerInterface__endpoint = self._endpoint = make_endpoint(config.network, TRAINERS)
        self._cfg, self._spec, self._due, self._console, self._check = config.network, spec, due, console, check
        self._real_time = config.env.real_time
        self._keys = keys_of(config)
        self._digest, self._session = digest(self._keys), secrets.token_hex(8)
        self._life = secrets.token_hex(8)
        self._ledger = Ledger(self._cfg.patience_s)
        self._queue: deque[Steps] = deque()
        self._rows: deque = deque()  # of the first of the queue, that are left
        self._weights: bytes | None = None  # the newest, as it was or will be sent
        self._version = 0
        self._stats = (0.0, 0)  # return and steps of the newest training episode
        self._request: tuple[int, Mapping[str, tuple[int, int]]] = (0, {})
        self._results: list[Result] = []
        self._there: set[str] = set()
        self._refused: set[str] = set()
        self._said = self._asked = self._broadcast = -float("inf")
        self._heard = time.monotonic()  # from any worker
        self._lonely = False
        self._saving: dict[str, int] = {}

    # --- what tmrl's loop calls ------------------------------------------------------------------------

    def retrieve_buffer(self) -> Buffer:
        """Return some rows of an episode, those of a reset included; empty when there are none."""
        self.idle()
        if not self._rows and self._queue:
            self._rows.extend(unpack_steps(self._queue[0], self._spec))
            self._stats = self._queue[0].ret, self._queue[0].count - 1
        buffer = Buffer()
        buffer.memory = [self._rows.popleft() for _ in range(min(AT_ONCE, len(self._rows)))]
        buffer.stat_train_return, buffer.stat_train_steps = self._stats
        if buffer.memory and not self._rows:
            self._queue.popleft()
        if not buffer.memory:
            self._check()
            time.sleep(_PAUSE_S)
        return buffer

    def broadcast_model(self, actor: DrivingActor) -> None:
        """Let the workers begin their next episodes with this actor."""
        now = time.monotonic()
        waited = now - self._broadcast
        # Not before somebody has the last one: a slow line would only ever fall further behind.
        arrived = waited >= _LOST_S or bool(self._ledger.have(self._version, now))
        if not self._version or (waited >= self._cfg.model_interval_s and arrived):
            self.send_model(actor)

    # --- what our loop calls ----------------------------------------------------------------------------

    def resume(self, make_actor: Callable[[], DrivingActor]) -> None:
        """Send the actor of a run that goes on: the workers wait for it, and its loop for their steps."""
        self.send_model(make_actor())

    def send_model(self, actor: DrivingActor) -> None:
        """Send this actor now; returns at once."""
        self._version += 1
        self._weights = pack_weights(actor)
        self._send_weights()

    def idle(self) -> None:
        """Take in what has come and answer; costs next to nothing when it is not yet time."""
        now = time.monotonic()
        if now - self._asked >= _ASK_S:
            self._asked = now
            for data in self._receive():
                self._take(data, now)
            self._endpoint.notify({TRAINERS: -1})
        if now - self._said >= _NOTE_S:
            self._say(now)

    def evaluate_on(self, number: int, episodes: Mapping[str, tuple[int, int]]) -> None:
        """Ask workers for evaluation episodes with the newest actor: with the mode, with samples; 0 ends it."""
        if number != self._request[0]:
            self._results.clear()
        self._request = number, episodes

    def results(self) -> list[Result]:
        """Return what has come of the present evaluation."""
        return [result for result in self._results if result.request == self._request[0]]

    def workers(self) -> list[str]:
        """Return the workers that are there."""
        return self._ledger.alive(time.monotonic())

    def begin_episode(self) -> None:
        """Drop what was driven for a replay that was cleared: here, and, by another life, where workers keep it."""
        self._life = secrets.token_hex(8)
        self._rows.clear()
        self._queue.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what has come and is not in the replay yet, and what has come at all: tensors and plain numbers."""
        self._saving = self._ledger.received()
        pending = [torch.from_numpy(np.frombuffer(dumps(to_plain(steps)), np.uint8).copy()) for steps in self._queue]
        return {"life": self._life, "received": self._saving, "pending": pending, "rows_left": len(self._rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from what ``state_dict`` returned; what another kind of interface left is passed over.

        Returns:
            Whether the episode goes on whose first rows are in the replay.
        """
        if "received" not in state:
            return False
        self._life = state["life"]
        self._ledger.load(state["received"])
        self._queue = deque(from_plain(loads(packed.numpy().tobytes())) for packed in state["pending"])
        self._rows.clear()
        if left := state["rows_left"]:
            self._rows.extend(unpack_steps(self._queue[0], self._spec)[-left:])
        return True

    def saved(self) -> None:
        """Note that the last ``state_dict`` is in a checkpoint: workers may forget what it holds."""
        self._ledger.saved(self._saving)
        self._said = -float("inf")

    def close(self, finished: bool) -> None:
        """Say goodbye and close the connection.

        Args:
            finished: the run has ended, and its workers are no longer needed.
        """
        if finished:
            self._say(time.monotonic(), finished=True)
        self._endpoint.stop()

    # --- what comes and goes ------------------------------------------------------------------------------

    def _receive(self) -> list[Any]:
        try:
            return self._endpoint.receive_all()
        except ValueError as error:
            self._refuse("somebody", f"what came is not readable: {error}")
            return []

    def _take(self, data: Any, now: float) -> None:
        try:
            message = from_plain(data)
            if not isinstance(message, (Hello, Steps, Result)):
                raise MessageError("a trainer does not take it")
        except MessageError as error:
            self._refuse("somebody", str(error))
            return
        if message.fingerprint != self._digest:
            self._refuse(message.worker, "it drives another environment or another model, or sees differently")
            return
        if isinstance(message, Result):
            self._results += [] if message in self._results else [message]
            return
        if lost := self._ledger.hear(message.worker, message.version, message.first, now):
            tell(self._console, f"{lost} episodes of worker {message.worker} came after this checkpoint", "yellow")
        if isinstance(message, Steps):
            self._take_steps(message)

    def _take_steps(self, steps: Steps) -> None:
        try:
            unpack_steps(steps, self._spec)  # before it counts as received
        except MessageError as error:
            self._refuse(steps.worker, str(error))
            return
        if self._ledger.take(steps.worker, steps.number):
            self._queue.append(steps)

    def _refuse(self, who: str, why: str) -> None:
        if (words := f"worker {who} is refused: {why}") not in self._refused:
            self._refused.add(words)
            tell(self._console, words, "red")

    def _say(self, now: float, finished: bool = False) -> None:
        self._said = now
        self._tell_who_is_there(now)
        if self._some_wait_for_weights(now):
            self._send_weights()
        pending = sum(steps.count - 1 for steps in self._queue)
        wanted = self._due() + int(self._cfg.lead) - pending
        number, episodes = self._request
        note = Note(
            session=self._session,
            life=self._life,
            fingerprint=self._digest,
            keys=self._keys,
            version=self._version,
            received=self._ledger.received(),
            durable=self._ledger.durable(),
            credit=None if self._real_time else self._ledger.credit(wanted, now),
            request=number,
            episodes=dict(episodes),
            brought=Counter(result.worker for result in self.results()),
            finished=finished,
        )
        self._endpoint.broadcast(to_plain(note), WORKERS)

    def _some_wait_for_weights(self, now: float) -> bool:
        """Whether a worker came late, or weights that an evaluation needs seem lost."""
        waited = now - self._broadcast
        if self._version and self._ledger.have(0, now):  # no actor of this session
            return waited >= _NOTE_S * 4
        lack = len(self._ledger.have(self._version, now)) < len(self._ledger.alive(now))
        return self._request[0] > 0 and lack and waited >= _LOST_S

    def _send_weights(self) -> None:
        self._broadcast = time.monotonic()
        weights = Weights(self._session, self._digest, self._version, self._weights)
        self._endpoint.broadcast(to_plain(weights), WORKERS)

    def _tell_who_is_there(self, now: float) -> None:
        there = set(self._ledger.alive(now))
        for worker in sorted(there - self._there):
            tell(self._console, f"worker {worker} is there ({len(there)} in all)", "green")
        for worker in sorted(self._there - there):
            tell(self._console, f"worker {worker} is gone ({len(there)} are left)", "yellow")
        self._there = there
        self._heard = now if there else self._heard
        lonely = now - self._heard > self._cfg.patience_s
        if lonely and not self._lonely:
            where = f"{self._cfg.host}:{self._cfg.port}"
            tell(
                self._console,
                f"no worker is there. Start some with role=worker; if they run: does the server at {where}, and are "
                "network.password and the certificates the same? Waiting.",
                "yellow",
            )
        self._lonely = lonely
