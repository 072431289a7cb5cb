"""The parts of a run put together: begin or go on, epoch after epoch, to whatever ends it."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from app.agents.guard import NonFiniteError
from app.config.schema import Config
from app.errors import UserError
from app.health.objective import is_better, lowest
from app.models.actor import DrivingActor
from app.replay.layout import slack_of
from app.replay.storage import Storage
from app.reporting.formatting import tell
from app.reporting.metrics import MetricsWriter
from app.reporting.progress import Progress
from app.runs.fingerprint import fingerprint, flatten
from app.runs.folder import RunFolder
from app.tmrl_api import iterate_epochs
from app.training.beginning import Source, choose, note_start, say_what_changed
from app.training.conclusion import same_command
from app.training.evaluation import make_starts, starts_of
from app.training.interface import AT_ONCE, connect
from app.training.loop import DrivingTraining
from app.training.means import LOGGED
from app.training.rng import get_rng_state, set_rng_state
from app.training.setup import Setup
from app.training.stop import Stopped, StopRequest
from app.training.threads import PaceWatch
from app.training.vitals import COLLAPSED, Vitals, Watcher

SELECT = 0.0  # offset of the starts that choose the best policy; others judge it
OTHER_POLICY = ("return_test_det", "lap_share_det", "laps_det", "lap_time_det")  # logged of the policy not deployed
NOT_FINITE = "not finite: "
_MOST_ROWS = 2 * AT_ONCE  # that one call of the interface brings: every step may end an episode


class Trainer:
    """The parts of a run and what it has reached so far.

    Args:
        config: of the run.
        setup: what was made ready for it.
        folder: of the run, owned by this process.
        storage: where the replay keeps its rows.
        console: where to tell.
        stop: asked between any two updates and steps.
        watchers: told every score.
    """

    def __init__(
        self,
        config: Config,
        setup: Setup,
        folder: RunFolder,
        storage: Storage,
        console: Console,
        stop: StopRequest,
        watchers: Sequence[Watcher] = (),
    ):
        self.config, self.folder, self.storage, self.console, self.stop = config, folder, storage, console, stop
        spec, slack = setup.spec, slack_of(config.replay.capacity)
        self.training = DrivingTraining(config, spec, setup.device, storage, slack, self._between_updates)
        self.pace = PaceWatch(console)
        self.vitals = Vitals(config, console, watchers)
        self.progress = Progress(config.logger.progress, config.training.updates, config.training.epochs, console)
        self.interface, self.evaluator = connect(config, spec, folder.path, self.training, console, stop.check)
        self.actor = DrivingActor(spec.space(), spec.action_space(), config, spec)  # evaluates, plays the best
        self.writer: MetricsWriter | None = None
        self.best: dict[str, Any] = {}
        self.epochs_done = 0  # evaluation included
        self._paced = 0  # updates when the pace was looked at last
        self._made_under = {"fingerprint": fingerprint(config), "config": flatten(asdict(config.to_keep()))}
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
            self.progress.start(training.total_updates, training.memory.env_steps)
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
            tell(self.console, str(error), "bold red")
            return NOT_FINITE + error.quantity
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
        self.interface.saved()
        self._saved = time.monotonic()

    def score(self, reason: str) -> float:
        """Return the objective that the run counts with.

        Args:
            reason: why it stopped. A collapsed run counts with its worst evaluation; if it collapsed before there was
                any, with the lowest return to expect, or, where that is not known, with that of an untrained policy.

        Returns:
            A number; NaN for a run that was stopped before its first evaluation.
        """
        collapsed = reason.startswith((COLLAPSED, NOT_FINITE))
        if collapsed and math.isnan(self.vitals.score()):
            low = lowest(self.config.objective, self.config.env.return_range)
            if math.isfinite(low):
                return low
            untrained = self.evaluator.evaluate(
                self.actor, *starts_of(self.config, SELECT)
            )  # it took over no weights yet
            self.vitals.add(untrained.metrics())
        return self.vitals.score(collapsed)

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
        """Flush what was written, free the environments and let go of the workers."""
        if self.writer is not None:
            self.writer.close()
        self.evaluator.close()
        self.interface.close(finished=self.training.total_updates >= self.training.updates_wanted)
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
        self.vitals.load_state_dict(state["vitals"])
        self.training.load_state_dict(state["training"], self.epochs_done, replay_cleared)
        goes_on = self.interface.load_state_dict(state["interface"])
        if replay_cleared:
            self.interface.begin_episode()
        else:
            self._kept = [kept["training"]["replay"] for kept in reversed(states)]
        if not goes_on:
            tell(
                self.console,
                f"the episode that ran in {self.config.env.name} cannot go on, so a new one begins and this start will "
                "not be the same as a run that was never stopped.",
                "yellow",
            )
        self.interface.resume(self.training.agent.get_actor)
        set_rng_state(state["rng"])

    def _between_updates(self, training: DrivingTraining) -> None:
        """All state is whole here: show, stop, save."""
        self.progress.update(training.total_updates, training.memory.env_steps, self.epochs_done + 1)
        if training.total_updates > self._paced and "training_step_duration" in training.agent.metrics:
            self.pace.add(training.agent.metrics["training_step_duration"])  # which tmrl has measured
            self._paced = training.total_updates
        self.stop.check()
        if time.monotonic() - self._saved >= self.config.training.checkpoint_interval_s:
            self.save_checkpoint()
        while training.memory.room < _MOST_ROWS:  # until the one before counts on newer rows, too
            self.save_checkpoint()

    def _finish_epoch(self) -> None:
        """Evaluate, log, and keep the policy if it is the best; tmrl's loop saves a checkpoint next."""
        self.progress.evaluating()
        evaluation = self._evaluate()
        self.epochs_done += 1
        means = self.training.means.take()
        metrics = {name: means[name] for name in LOGGED if name in means} | self.training.memory.reward_range()
        metrics |= evaluation | {"updates": self.training.total_updates}
        metrics |= self.vitals.add(metrics) | self.counters()
        self.writer.write(self.training.total_updates, metrics)
        best = is_better(evaluation, self.best)
        if best:
            self._keep_best({**evaluation, "best_epoch": self.epochs_done})
        self.progress.evaluated(evaluation, best)
        self.vitals.judge()

    def _evaluate(self) -> dict[str, float]:
        """Evaluate both policies; the actor is left with the weights of the one that is deployed.

        Returns:
            Metrics of the deployed policy, and those of the other one with its name behind them.
        """
        deployed, policies = self.config.agent.deployed_policy, self.training.agent.policies
        det, stoch = starts_of(self.config, SELECT)
        metrics: dict[str, float] = {}
        count = self.config.training.eval_episodes_other
        if self.config.agent.policy_ema and count:
            (name,) = policies.keys() - {deployed}
            self.actor.copy_from(policies[name])
            starts = make_starts(self.config.env.eval_tracks, count, SELECT)
            other = self.evaluator.evaluate(self.actor, starts, ()).metrics()
            metrics = {f"{key}_{name}": other[key] for key in OTHER_POLICY if key in other}
        self.actor.copy_from(policies[deployed])
        metrics = self.evaluator.evaluate(self.actor, det, stoch).metrics() | metrics
        self.interface.resume(
            self.training.agent.get_actor
        )  # workers that evaluated collect with the raw weights again
        return metrics

    def _keep_best(self, best: dict[str, Any]) -> None:
        try:
            model = self.training.agent.policies[self.config.agent.deployed_policy]
            self.folder.save_best(self.actor, model, best, self._made_under["fingerprint"])
        except OSError as error:
            raise self._cannot_write(self.folder.best_actor, error) from None
        self.best = best

    def _cannot_write(self, path: Path, error: OSError) -> UserError:
        intact = "The last checkpoint is intact: mend" if self.folder.checkpoints.exist() else "Mend"
        return UserError(
            f"{path}: cannot be written at update {self.training.total_updates} ({error.strerror or error}). {intact} "
            f"the cause, and {same_command(self.config)} goes on from there."
        )

    def _state(self) -> dict[str, Any]:
        return {
            **self._made_under,
            "training": self.training.state_dict(),
            "interface": self.interface.state_dict(),
            "rng": get_rng_state(),
            "threads": torch.get_num_threads(),
            "epochs_done": self.epochs_done,
            "vitals": self.vitals.state_dict(),
            "wall_s": self.counters()["wall_s"],
        }
