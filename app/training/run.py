"""One run from its configuration to its summary."""

import math
import signal
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from app.agents.guard import NonFiniteError
from app.config.schema import Config, SimConfig
from app.envs.factory import make_env, make_spec
from app.envs.spec import ObservationSpec
from app.errors import UserError
from app.models.actor import DrivingActor
from app.replay.compress import SampleCompressor
from app.replay.forecast import check, forecast
from app.replay.layout import slack_of
from app.replay.storage import MappedStorage, Storage
from app.reporting.banner import print_banner
from app.reporting.formatting import make_console
from app.reporting.metrics import MetricsWriter
from app.reporting.progress import Progress
from app.restart.clear import clear_run, show_run
from app.runs.fingerprint import fingerprint, flatten
from app.runs.folder import RunFolder
from app.tmrl_api import RolloutWorker, iterate_epochs
from app.training.beginning import Source, choose, find_source, note_start, say_what_changed, tell
from app.training.conclusion import Conclusion, same_command
from app.training.evaluation import Evaluator, starts_of
from app.training.facts import banner_facts
from app.training.local import AT_ONCE, LocalInterface
from app.training.loop import DrivingTraining
from app.training.rng import get_rng_state, set_rng_state
from app.training.setup import prepare
from app.training.stop import Stopped, StopRequest

SELECT = 0.0  # offset of the starts that choose the best policy; others judge it
_MOST_ROWS = 2 * AT_ONCE  # that one call of the interface brings: every step may end an episode


def train(config: Config, one_of_many: bool = False) -> float:
    """Begin a run or go on with it, to its end, and leave a complete run folder.

    Args:
        config: the validated configuration.
        one_of_many: others follow this one, and Ctrl-C is meant for them, too.

    Returns:
        The objective: ``return_test_det`` of the best policy, on starts that did not choose it. NaN if there is none.

    Raises:
        UserError: something the user can mend, in words.
        KeyboardInterrupt: one of many was interrupted; its folder is complete.
    """
    console = make_console()
    if config.restart and config.restart.dry_run:
        show_run(config, console)
        return math.nan
    device = prepare(config.device, config.threads, config.seed)
    spec = make_spec(config.env)
    memory = forecast(spec, config.replay.capacity)
    check(memory)
    with StopRequest() as stop, RunFolder.open(config) as folder:
        storage = MappedStorage(folder.replay)
        with folder.in_words():
            source = find_source(config, folder, storage.files(spec))
            cleared = clear_run(config, console) if config.restart else ()
            folder.list_files(storage.files(spec))
        run = Run(config, spec, device, folder, storage, console, stop)
        try:
            print_banner(console, banner_facts(config, spec, run.training.agent.model, memory, folder, device))
            run.begin(source, "replay" in cleared)
            end = Conclusion(config, folder, console, run.evaluator, run.actor)
            reason, objective = "finished", None
            if run.epochs_done >= config.training.epochs:
                objective = end.finished_before(run.training.total_updates)
            if objective is None:
                reason = run.to_the_end()
                objective = end.sum_up(reason, run.counters(), run.best)
        finally:
            run.close()
    if reason == "terminated":
        sys.exit(128 + signal.SIGTERM)  # as shells and schedulers expect it
    if one_of_many and stop.reason == "interrupted":
        raise KeyboardInterrupt
    return objective


class Run:
    """The parts of a run and what it has reached so far."""

    def __init__(
        self,
        config: Config,
        spec: ObservationSpec,
        device: str,
        folder: RunFolder,
        storage: Storage,
        console: Console,
        stop: StopRequest,
    ):
        self.config, self.folder, self.storage, self.console, self.stop = config, folder, storage, console, stop
        slack = slack_of(config.replay.capacity)
        self.training = DrivingTraining(config, spec, device, storage, slack, self._between_updates)
        self.progress = Progress(config.logger.progress, config.training.updates, config.training.epochs, console)
        self.worker = _make_worker(config, spec, folder)
        self.interface = LocalInterface(self.worker, self.training.missing_env_steps)
        self.evaluator = Evaluator(config.env, config.seed, stop.check)
        self.actor = DrivingActor(spec.space(), spec.action_space(), config, spec)  # evaluates, plays the best
        self.writer: MetricsWriter | None = None
        self.best: dict[str, Any] = {}
        self.epochs_done = 0  # evaluation included
        self._made_under = {"fingerprint": fingerprint(config), "config": flatten(asdict(config))}
        self._wall_before = 0.0  # seconds of earlier starts
        self._began = self._saved = time.monotonic()
        self._kept: list[dict[str, Any]] = []  # replay states of the checkpoints on the disk, the last one last

    def begin(self, source: Source, replay_cleared: bool) -> None:
        """Go on from the checkpoint in the folder, or begin anew.

        Args:
            source: what there is to begin from.
            replay_cleared: the replay was removed on purpose, the networks go on with an empty one.
        """
        config, folder, training, console = self.config, self.folder, self.training, self.console
        states = choose(source, folder, training.memory, console, replay_cleared)
        with folder.in_words():
            if not states and (aside := folder.put_records_aside()):
                tell(console, f"the records of an earlier run were moved to {aside}", "yellow")
            folder.sign(config)
        if states:
            say_what_changed(config, folder, states[0], console)
            self._restore(states, replay_cleared)
        else:
            self._begin_anew(source)
        self.best = folder.best_so_far()
        training.memory.protect(self._kept)
        epochs_end = self.epochs_done * config.training.updates_per_epoch
        self.writer = MetricsWriter(folder.path, config.logger.tensorboard, after=epochs_end)
        if states and replay_cleared:
            self.save_checkpoint()  # from here on the checkpoint tells of an empty replay,
            self.save_checkpoint()  # and so does the one before

    def to_the_end(self) -> str:
        """Run every epoch; returns why it stopped."""
        training = self.training
        try:
            self.progress.start(training.total_updates, training.memory.env_steps, self._best_return())
            epochs = iterate_epochs(
                run_cls=lambda: training,
                interface=self.interface,
                checkpoint_path=str(self.folder.checkpoints.last),
                dump_run_instance_fn=lambda *_: self.save_checkpoint(),
                load_run_instance_fn=lambda _: training,  # begin() has restored it
            )
            for _ in epochs:
                self._finish_epoch()
        except Stopped as stopped:
            self.save_checkpoint()
            return stopped.reason
        except KeyboardInterrupt:  # the second signal: at once, in the middle of anything
            return "interrupted"
        except NonFiniteError as error:
            self.console.print(str(error), style="bold red", markup=False)
            return f"not finite: {error.quantity}"
        finally:
            self.progress.stop()
        return "finished"

    def save_checkpoint(self) -> None:
        """Make everything durable that the run needs to go on from here.

        Raises:
            UserError: it cannot be written; the last checkpoint is as it was.
        """
        self.training.agent.check_weights()
        try:
            state = self._state()
            self.folder.checkpoints.save(state)
        except OSError as error:
            raise self._cannot_write(self.folder.checkpoints.last, error) from None
        self._kept = [*self._kept[-1:], state["training"]["replay"]]
        self.training.memory.protect(self._kept)
        self._saved = time.monotonic()

    def counters(self) -> dict[str, float]:
        """Return what was done so far, over all starts of the run."""
        seconds = self._wall_before + time.monotonic() - self._began
        updates = self.training.total_updates
        return {
            "epoch": self.epochs_done,
            "updates": updates,
            "env_steps": self.training.memory.env_steps,
            "wall_s": seconds,
            "updates_per_s": updates / seconds,
        }

    def close(self) -> None:
        """Flush what was written and free the environments."""
        if self.writer is not None:
            self.writer.close()
        self.evaluator.close()
        self.worker.env.close()
        self.storage.close()

    def _begin_anew(self, source: Source) -> None:
        agent = self.training.agent
        if source.weights is not None:
            agent.load_weights(source.weights)
            tell(self.console, f"begins with {source.policy}, an empty replay and fresh optimisers", "green")
        self.interface.broadcast_model(agent.get_actor())
        note_start(self.folder, 0, [], self.console)

    def _restore(self, states: list[dict[str, Any]], replay_cleared: bool) -> None:
        """Take over the newest state."""
        state = states[0]
        self.epochs_done, self._wall_before = state["epochs_done"], state["wall_s"]
        self.training.load_state_dict(state["training"], self.epochs_done, replay_cleared)
        goes_on = self.interface.load_state_dict(state["interface"])
        if replay_cleared:
            self.interface.begin_episode()
        else:
            self._kept = [kept["training"]["replay"] for kept in reversed(states)]
        if not goes_on:
            self.console.print(
                f"env.id = {self.config.env.name}: the task does not repeat itself, so a new episode begins and this "
                "start will not be the same as a run that was never stopped.",
                style="yellow",
                markup=False,
            )
        set_rng_state(state["rng"])

    def _between_updates(self, training: DrivingTraining) -> None:
        """All state is whole here: show, stop, save."""
        self.progress.update(training.total_updates, training.memory.env_steps, self.epochs_done + 1)
        self.stop.check()
        if time.monotonic() - self._saved >= self.config.training.checkpoint_interval_s:
            self.save_checkpoint()
        while training.memory.room < _MOST_ROWS:  # until the one before counts on newer rows, too
            self.save_checkpoint()

    def _finish_epoch(self) -> None:
        """Evaluate, log, and keep the policy if it is the best; tmrl's loop saves a checkpoint next."""
        self.progress.evaluating()
        self.actor.copy_from(self.training.agent.model)
        det, stoch = starts_of(self.config, SELECT)
        evaluation = self.evaluator.evaluate(self.actor, det, stoch).metrics()
        self.epochs_done += 1
        means = self.training.means.take()
        metrics = {name: means[name] for name in _METRICS if name in means} | evaluation | self.counters()
        self.writer.write(self.training.total_updates, metrics)
        if evaluation["return_test_det"] > self._best_return():
            self._keep_best({**evaluation, "best_epoch": self.epochs_done})
        self.progress.evaluated(evaluation)

    def _keep_best(self, best: dict[str, Any]) -> None:
        try:
            self.folder.save_best(self.actor, self.training.agent.model, best, self._made_under["fingerprint"])
        except OSError as error:
            raise self._cannot_write(self.folder.best_actor, error) from None
        self.best = best

    def _cannot_write(self, path: Path, error: OSError) -> UserError:
        intact = "The last checkpoint is intact: mend" if self.folder.checkpoints.exist() else "Mend"
        return UserError(
            f"{path}: cannot be written at update {self.training.total_updates} ({error.strerror or error}). {intact} "
            f"the cause, and {same_command(self.config)} goes on from there."
        )

    def _best_return(self) -> float:
        return self.best["return_test_det"] if self.best else -math.inf

    def _state(self) -> dict[str, Any]:
        return {
            **self._made_under,
            "training": self.training.state_dict(),
            "interface": self.interface.state_dict(),
            "rng": get_rng_state(),
            "epochs_done": self.epochs_done,
            "wall_s": self.counters()["wall_s"],
        }


_METRICS = (
    "loss_critic", "loss_actor", "loss_prediction", "loss_entropy", "q_mean", "q_max", "q_target_mean", "reward",
    "alpha", "entropy", "log_std_mean", "grad_norm_critic", "grad_norm_actor", "film_scale", "return_train",
    "episode_length_train", "sampling_duration", "training_step_duration",
)  # fmt: skip


def _make_worker(config: Config, spec: ObservationSpec, folder: RunFolder) -> RolloutWorker:
    """A standalone worker on the training tracks; the actor it builds is replaced by ``broadcast_model``."""
    tracks = config.env.train_tracks if isinstance(config.env, SimConfig) else ()
    return RolloutWorker(
        env_cls=partial(make_env, config.env, tracks, config.seed),
        actor_module_cls=partial(DrivingActor, config=config, spec=spec),
        sample_compressor=SampleCompressor(spec),
        model_path=str(folder.path / "weights" / "worker.tmod"),
        standalone=True,
    )
