"""Trainer: builds the parts of a run, starts or resumes it, and runs epoch after epoch until something ends it."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from app.agents.finite_check import NonFiniteError
from app.agents.measures import measure
from app.config.schema import Config
from app.core.console import print_line
from app.core.errors import UserError, format_error, out_of_memory
from app.core.tmrl_api import iterate_epochs
from app.evaluation.episodes import SELECTION_OFFSET, Start, make_starts
from app.evaluation.evaluator import evaluation_starts
from app.health.score import is_better, lowest_objective
from app.models.graphed_actor import make_actor
from app.replay.demonstrations import Demonstrations
from app.replay.ring import slack_rows
from app.replay.storage import Storage
from app.reporting.metric_logs import metric_logs
from app.reporting.metrics import MetricsWriter
from app.reporting.progress import Progress
from app.reporting.run_report import RunReport
from app.runs.fingerprint import fingerprint, flatten
from app.runs.run_folder import RunFolder
from app.training.finalize import same_command
from app.training.loop import TrainingLoop
from app.training.monitor import EpochCallback, HealthMonitor
from app.training.resume import Source, record_start, report_changes, report_same_settings, usable_states
from app.training.rollout import MAX_STEPS_PER_BUFFER, Connect
from app.training.serialization import get_rng_state, set_rng_state
from app.training.setup import Setup
from app.training.stop import INTERRUPTED, StopKind, Stopped, StopReason, StopRequest
from app.training.threads import PaceMonitor

# Metrics that are logged of the policy that is not deployed.
_OTHER_POLICY_METRICS = ("return_test_det", "lap_share_det", "laps_det", "lap_time_det")
_MAX_EPISODE_STATES = 1000  # of the newest episodes, whose predicted and earned values are compared
_RESTORE_ERRORS = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
_MAX_ROWS_PER_BUFFER = 2 * MAX_STEPS_PER_BUFFER  # every step may be followed by a reset


class Trainer:
    """Owns the parts of a run, its counters and its best result.

    Args:
        config: Configuration of the run.
        setup: Device and observation of the run.
        folder: Folder of the run, owned by this process.
        storage: Storage of the replay's rows.
        console: Console for progress and messages.
        stop: Stop request, checked between any two updates and steps.
        connect: Makes the source of environment steps and the evaluator.
        callbacks: Receive the objective after every epoch.
    """

    def __init__(
        self,
        config: Config,
        setup: Setup,
        folder: RunFolder,
        storage: Storage,
        console: Console,
        stop: StopRequest,
        connect: Connect,
        callbacks: Sequence[EpochCallback] = (),
    ):
        self.config, self.folder, self.storage, self.console, self.stop = config, folder, storage, console, stop
        spec, slack = setup.spec, slack_rows(config.replay.capacity)
        self.pace = PaceMonitor(console)
        self.loop = TrainingLoop(config, spec, setup.device, storage, slack, self._at_safe_point, self.pace.add)
        self.monitor = HealthMonitor(config, console, callbacks)
        self.progress = Progress(config.logger.progress, config.training.updates, config.training.epochs, console)
        self.interface, self.evaluator = connect(config, spec, self.loop, console, stop.check)
        self.actor = make_actor(config, spec, setup.device)  # for evaluation only
        self.writer: MetricsWriter | None = None
        self.report = RunReport(folder, config, console)
        self.best: dict[str, Any] = {}  # evaluation of the best policy
        self.epochs_done = 0  # evaluation included
        self._rows_at_epoch = 0  # rows of the replay when the last epoch was completed
        self._provenance = {"fingerprint": fingerprint(config), "config": flatten(asdict(config.to_record()))}
        self._earlier_wall_s = 0.0  # of earlier starts
        self._start_time = self._last_save = time.monotonic()
        self._saved_replays: list[dict[str, Any]] = []  # replay states of the existing checkpoints, the newest last

    def start(self, source: Source, replay_cleared: bool) -> None:
        """Resume from a checkpoint in the folder, or start a new run.

        Args:
            source: The checkpoints and weights to start from.
            replay_cleared: Whether the replay was removed on purpose; the networks continue with an empty one.
        """
        config, folder, loop, console = self.config, self.folder, self.loop, self.console
        states = usable_states(source, folder, loop.memory, console, replay_cleared)
        with folder.as_user_errors():
            if not states and (aside := folder.move_records_to_history()):
                print_line(console, f"The records of an earlier run were moved to {aside}.", "yellow")
            folder.write_fingerprint(config)
        if states:
            try:
                report_changes(config, folder, states[0], loop.agent.device, console)
                self._resume(states, replay_cleared)
            except _RESTORE_ERRORS as error:
                if (shortage := out_of_memory(folder.checkpoints.last, error)) is not None:
                    raise shortage from error
                raise UserError(  # its checksum is right: another program made it, or a person
                    f"{folder.checkpoints.last}: is not a state that this version saves ({format_error(error)}). Start "
                    f"a new run from its best policy: run_name=... training.init_from={folder.path}"
                ) from error
        else:
            if config.restart is None:
                report_same_settings(config, folder, console)
            self._start_new(source)
        self.best = folder.read_best_result()
        loop.memory.pin(self._saved_replays)
        updates = self.epochs_done * config.training.updates_per_epoch
        self.writer = MetricsWriter(folder.path, updates, metric_logs(folder, config, updates))
        if states and replay_cleared:  # twice, so that both checkpoints contain the empty replay
            self.save_checkpoint()
            self.save_checkpoint()

    def run_epochs(self) -> StopReason:
        """Run all epochs that are left; return why the run stopped."""
        loop = self.loop
        try:
            self.progress.start(loop.total_updates, loop.memory.env_steps)
            epochs = iterate_epochs(
                run_cls=lambda: loop,
                interface=self.interface,
                checkpoint_path=str(self.folder.checkpoints.last),
                dump_run_instance_fn=lambda *_: self.save_checkpoint(),
                load_run_instance_fn=lambda _: loop,  # start() has restored it
            )
            return self._complete_epochs(epochs)
        except KeyboardInterrupt:  # the second signal, possibly in the middle of an update: nothing can be saved
            return INTERRUPTED
        except NonFiniteError as error:
            kept = " The last checkpoint, from before it, is kept." if self.folder.checkpoints.exist() else ""
            print_line(self.console, f"{error}{kept}", "bold red")
            return StopReason(StopKind.NOT_FINITE, error.quantity)
        finally:
            self.progress.stop()

    def save_checkpoint(self) -> None:
        """Write a checkpoint from which the run can be resumed exactly.

        Raises:
            UserError: It cannot be written; the previous checkpoint is unchanged.
        """
        self.loop.add_metrics()  # of an update that a GPU still computes: a NaN is named by what became NaN first
        self.loop.agent.check_weights()
        try:
            state = self._state()
            self.folder.checkpoints.save(state)
        except OSError as error:
            raise self._write_error(self.folder.checkpoints.last, error) from None
        self._saved_replays = [*self._saved_replays[-1:], state["training"]["replay"]]
        self.loop.memory.pin(self._saved_replays)
        self.interface.saved()
        self._last_save = time.monotonic()

    def objective(self, reason: StopReason) -> float:
        """Return the final objective of the run.

        A collapsed run counts with its worst evaluation. If it collapsed before any, it counts with the lowest return
        to expect, or, where that is unknown, with the return of the untrained policy.

        Args:
            reason: Reason why the run stopped.

        Returns:
            The objective; NaN for a run that was stopped before its first evaluation.
        """
        collapsed = reason.kind in (StopKind.COLLAPSED, StopKind.NOT_FINITE)
        if collapsed and math.isnan(self.monitor.objective()):
            low = lowest_objective(self.config.objective, self.config.env.return_range)
            if math.isfinite(low):
                return low
            untrained = self.evaluator.evaluate(self.actor, *self._starts())  # its weights were never replaced
            self.monitor.add(untrained.metrics())
        return self.monitor.objective(collapsed)

    def counters(self) -> dict[str, float]:
        """Return epochs, updates, steps and times over all starts of the run."""
        seconds = self._earlier_wall_s + time.monotonic() - self._start_time
        updates = self.loop.total_updates
        return {
            "epoch": self.epochs_done,
            "updates": updates,
            "env_steps": self.loop.memory.env_steps,
            "wall_s": seconds,
            "updates_per_s": updates / seconds,
        }

    def close(self) -> None:
        """Flush the metrics, close the environments and disconnect from the workers."""
        if self.writer is not None:
            self.writer.close()
        self.evaluator.close()
        self.interface.close(finished=self.loop.total_updates >= self.config.training.updates)
        self.storage.close()

    def _start_new(self, source: Source) -> None:
        agent = self.loop.agent
        if source.weights is not None:
            agent.load_weights(source.weights)
            print_line(
                self.console,
                f"The run begins with {source.weights_description}, an empty replay and fresh optimizers.",
                "green",
            )
        if source.demonstrations is not None:
            self._append_demonstrations(source.demonstrations)
        self.interface.broadcast_model(agent.get_actor())
        record_start(self.folder, 0, [], agent.device, self.console)

    def _append_demonstrations(self, demonstrations: Demonstrations) -> None:
        """Begin the replay with driven episodes; they are no training episodes, whose values are measured."""
        memory, path = self.loop.memory, self.config.training.demonstrations
        memory.append_demonstrations(demonstrations)
        self._rows_at_epoch = memory.appended
        print_line(
            self.console,
            f"The replay begins with {demonstrations.steps:,} steps of {demonstrations.episodes:,} demonstrated "
            f"{'episode' if demonstrations.episodes == 1 else 'episodes'} from {path}; they count as no steps of the "
            "run.",
            "green",
        )

    def _resume(self, states: list[dict[str, Any]], replay_cleared: bool) -> None:
        """Restore the newest of some states."""
        state = states[0]
        self.epochs_done, self._earlier_wall_s = state["epochs_done"], state["wall_s"]
        self.monitor.load_state_dict(state["vitals"])
        self.loop.load_state_dict(state["training"], self.epochs_done, replay_cleared)
        episode_continues = self.interface.load_state_dict(state["interface"])
        if replay_cleared:
            self.interface.begin_episode()
        else:
            self._rows_at_epoch = state.get("rows_at_epoch", 0)  # older versions measured nothing
            self._saved_replays = [saved["training"]["replay"] for saved in reversed(states)]
        if not episode_continues:
            print_line(
                self.console,
                f"The episode that was running in {self.config.env.name} cannot be continued, so a new one begins: the "
                "result will differ from that of a run that was never stopped.",
                "yellow",
            )
        self.interface.resume(self.loop.agent.get_actor)
        set_rng_state(state["rng"])

    def _at_safe_point(self, loop: TrainingLoop) -> None:
        """Show progress, stop if requested, and save a checkpoint if one is due or the replay needs it."""
        self.progress.update(loop.total_updates, loop.memory.env_steps, self.epochs_done + 1)
        self.stop.check()
        if time.monotonic() - self._last_save >= self.config.training.checkpoint_interval_s:
            self.save_checkpoint()
        while loop.memory.free_rows < _MAX_ROWS_PER_BUFFER:  # the older of two checkpoints pins too many rows
            self.save_checkpoint()

    def _complete_epochs(self, epochs: Iterable[Any]) -> StopReason:
        """Evaluate and log after each of the epochs; save a checkpoint if the run is stopped in one of them."""
        try:
            for _ in epochs:
                self._complete_epoch()
        except Stopped as stopped:
            self.save_checkpoint()
            return stopped.reason
        return StopReason(StopKind.FINISHED)

    def _complete_epoch(self) -> None:
        """Evaluate, log, and keep the policy if it is the best; tmrl's loop saves a checkpoint next."""
        self.progress.evaluating()
        measures, evaluation = self._measure(), self._evaluate()
        self.epochs_done += 1
        updates, memory = self.loop.total_updates, self.loop.memory
        self._rows_at_epoch = memory.appended
        metrics = self.loop.averager.take() | memory.reward_range() | measures | evaluation | {"updates": updates}
        metrics |= self.monitor.add(metrics) | self.counters()
        self.writer.write(updates, metrics)
        best = is_better(evaluation, self.best)
        if best:
            self._keep_best({**evaluation, "best_epoch": self.epochs_done})
        self.progress.evaluated(evaluation, best)
        self.report.write()
        self.monitor.check()

    def _measure(self) -> dict[str, float]:
        """Measure the networks on states of the replay and on the episodes that ended in this epoch."""
        count, memory = self.config.health.measure_states, self.loop.memory
        batch = memory.sample_apart(count, (self.config.seed, self.epochs_done)) if count else None
        if batch is None:
            return {}
        episodes = memory.finished_episodes(self._rows_at_epoch, _MAX_EPISODE_STATES)
        return measure(self.loop.agent, batch, episodes, self.config.seed)

    def _evaluate(self) -> dict[str, float]:
        """Evaluate both policies; the actor keeps the weights of the deployed one.

        Returns:
            Metrics of the deployed policy, and those of the other one with its name as suffix.
        """
        deployed, policies = self.config.agent.deployed_policy, self.loop.agent.policies
        metrics: dict[str, float] = {}
        count = self.config.training.eval_episodes_other
        if self.config.agent.policy_ema and count:
            (name,) = policies.keys() - {deployed}
            self.actor.copy_from(policies[name])
            starts = make_starts(self.config.env.eval_tracks, count, SELECTION_OFFSET)
            other = self.evaluator.evaluate(self.actor, starts, ()).metrics()
            metrics = {f"{key}_{name}": other[key] for key in _OTHER_POLICY_METRICS if key in other}
        self.actor.copy_from(policies[deployed])
        metrics = self.evaluator.evaluate(self.actor, *self._starts()).metrics() | metrics
        self.interface.resume(self.loop.agent.get_actor)  # workers that evaluated collect with the raw weights again
        return metrics

    def _starts(self) -> tuple[tuple[Start, ...], tuple[Start, ...]]:
        return evaluation_starts(self.config.env, self.config.training, SELECTION_OFFSET)

    def _keep_best(self, result: dict[str, Any]) -> None:
        try:
            model = self.loop.agent.policies[self.config.agent.deployed_policy]
            self.folder.save_best(self.actor, model, result, self._provenance["fingerprint"])
        except OSError as error:
            raise self._write_error(self.folder.best_actor, error) from None
        self.best = result

    def _write_error(self, path: Path, error: OSError) -> UserError:
        intact = "The last checkpoint is intact. Remove" if self.folder.checkpoints.exist() else "Remove"
        return UserError(
            f"{path}: cannot be written at update {self.loop.total_updates} ({error.strerror or error}). {intact} the "
            f"cause, and {same_command(self.config)} continues from there."
        )

    def _state(self) -> dict[str, Any]:
        return {
            **self._provenance,
            "training": self.loop.state_dict(),
            "interface": self.interface.state_dict(),
            "rng": get_rng_state(),
            "threads": torch.get_num_threads(),
            "epochs_done": self.epochs_done,
            "rows_at_epoch": self._rows_at_epoch,
            "vitals": self.monitor.state_dict(),
            "wall_s": self.counters()["wall_s"],
        }
