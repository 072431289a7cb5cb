"""One run from its configuration to its summary."""

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from app.agents.guard import NonFiniteError
from app.config.schema import Config, SimConfig
from app.envs.factory import make_env, make_spec
from app.envs.spec import ObservationSpec
from app.models.actor import DrivingActor
from app.replay.compress import SampleCompressor
from app.replay.forecast import check, forecast
from app.reporting.banner import print_banner
from app.reporting.curves import plot_curves
from app.reporting.formatting import make_console
from app.reporting.metrics import MetricsWriter
from app.reporting.progress import Progress
from app.reporting.results import Evaluation
from app.reporting.summary import print_summary, write_summary
from app.tmrl_api import RolloutWorker
from app.training.assess import eval_tracks, film_best
from app.training.evaluation import Evaluator, Start, make_starts
from app.training.facts import banner_facts
from app.training.folder import RunFolder
from app.training.local import LocalInterface
from app.training.loop import DrivingTraining
from app.training.setup import prepare

SELECT, REPORT = 0.0, 0.5  # offsets of the starts that choose the best policy, and of those that judge it


def train(config: Config) -> float:
    """Train, evaluate, and leave a complete run folder.

    Args:
        config: the validated configuration.

    Returns:
        The objective: ``return_test_det`` of the best policy, on starts that did not choose it.

    Raises:
        UserError: something the user can mend, in words.
    """
    device = prepare(config.device, config.threads, config.seed)
    spec = make_spec(config.env)
    memory = forecast(spec, config.replay.capacity)
    check(memory)
    console = make_console()
    progress = Progress(config.logger.progress, config.training.updates, config.training.epochs, console)
    training = DrivingTraining(config, spec, device, partial(_show, progress))
    folder = RunFolder.create(config)
    print_banner(console, banner_facts(config, spec, training.agent.model, memory, folder, device))
    run = Run(config, spec, folder, console, progress, training)
    try:
        return run.conclude(run.to_the_end())
    finally:
        run.close()


class Run:
    """The parts of a run and what it has reached so far."""

    def __init__(
        self,
        config: Config,
        spec: ObservationSpec,
        folder: RunFolder,
        console: Console,
        progress: Progress,
        training: DrivingTraining,
    ):
        self.config, self.folder, self.console, self.progress = config, folder, console, progress
        self.training, self.began = training, time.monotonic()
        self.worker = _make_worker(config, spec, folder)
        self.interface = LocalInterface(self.worker, training.missing_env_steps)
        self.evaluator = Evaluator(config.env, config.seed)
        self.writer = MetricsWriter(folder.path, config.logger.tensorboard)
        self.best: dict[str, Any] = {}
        self.actor = DrivingActor(spec.space(), spec.action_space(), config, spec)  # evaluates, plays the best

    def to_the_end(self) -> str:
        """Run every epoch; returns why it stopped."""
        try:
            self.progress.start()
            self.save_checkpoint()  # a run that fails in its first epoch leaves what it began with
            self.interface.broadcast_model(self.training.agent.get_actor())
            while self.training.epoch < self.training.epochs:
                self.epoch()
        except KeyboardInterrupt:
            return "interrupted"
        except NonFiniteError as error:
            self.console.print(str(error), style="bold red", markup=False)
            return f"not finite: {error.quantity}"
        finally:
            self.progress.stop()
        return "finished"

    def epoch(self) -> None:
        """Train for one epoch, evaluate, log, keep the best policy and the checkpoint."""
        stats = self.training.run_epoch(self.interface)
        self.progress.evaluating()
        self.actor.copy_from(self.training.agent.model)
        evaluation = self.evaluator.evaluate(self.actor, *self.starts(SELECT)).metrics()
        metrics = {name: float(np.mean([row[name] for row in stats])) for name in _METRICS if name in stats[0]}
        metrics |= evaluation | self._counters()
        self.writer.write(self.training.total_updates, metrics)
        if evaluation["return_test_det"] > self.best.get("return_test_det", -math.inf):
            best = {**evaluation, "best_epoch": self.training.epoch}
            self.folder.save_best(self.actor, best)
            self.best = best
        self.save_checkpoint()
        self.progress.evaluated(evaluation)

    def save_checkpoint(self) -> None:
        """Keep the learner as it is now."""
        self.folder.save_checkpoint({"agent": self.training.agent.state_dict(), **self._counters()})

    def starts(self, offset: float) -> tuple[Sequence[Start], Sequence[Start]]:
        """Deterministic and stochastic evaluation starts with this offset."""
        cfg, env = self.config.training, self.config.env
        counts = cfg.eval_episodes, cfg.eval_episodes_stochastic
        return tuple(make_starts(env, eval_tracks(env), count, offset) for count in counts)

    def conclude(self, stop_reason: str) -> float:
        """Judge the best policy on fresh starts, draw, film, sum up; returns the objective, NaN without a policy.

        Ctrl-C cuts this short; the summary is written in any case.
        """
        summary: dict[str, Any] = {"run_name": self.folder.path.name, "stop_reason": stop_reason}
        summary |= {**self._counters(), "selection": self.best}
        paths: dict[str, Any] = {
            "folder": self.folder.path,
            "metrics": self.folder.metrics,
            "summary": self.folder.summary,
        }
        try:
            if self.best:
                self.console.print("judging the best policy on fresh starts; Ctrl-C skips this")
                summary |= self._judge(paths)
        except KeyboardInterrupt:
            self.console.print("skipped")
        objective = summary[self.config.objective] if self.config.objective in summary else math.nan
        summary |= {"paths": paths, "objective": objective}
        write_summary(self.folder.summary, summary)
        print_summary(self.console, summary)
        return objective

    def close(self) -> None:
        """Flush what was written and free the environments."""
        self.writer.close()
        self.evaluator.close()
        self.worker.env.close()

    def _judge(self, paths: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the best policy on starts that did not choose it, and draw; adds to ``paths``."""
        self.folder.load_best(self.actor)
        paths["best"] = self.folder.best_actor
        evaluation = self.evaluator.evaluate(self.actor, *self.starts(REPORT))
        try:
            paths |= self._pictures(evaluation)
        except Exception as error:  # a codec or a display that is missing must not cost the result
            self.console.print(f"no pictures: {error}", style="yellow", markup=False)
        return evaluation.metrics() | {"best_epoch": self.best["best_epoch"]}

    def _pictures(self, evaluation: Evaluation) -> dict[str, Any]:
        logger, folder, paths = self.config.logger, self.folder, {}
        if logger.curves:
            plot_curves(folder.metrics, folder.curves)
            paths["curves"] = folder.curves
        det, _ = self.starts(REPORT)
        film = (
            self.actor,
            self.config.env,
            det,
            evaluation.deterministic,
            self.config.seed,
            logger.video_size,
        )
        if logger.video and film_best(*film, folder.best_video):
            paths["video"] = folder.best_video
        return paths

    def _counters(self) -> dict[str, float]:
        seconds = time.monotonic() - self.began
        updates = self.training.total_updates
        return {
            "epoch": self.training.epoch,
            "updates": updates,
            "env_steps": self.training.memory.env_steps,
            "wall_s": seconds,
            "updates_per_s": updates / seconds,
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


def _show(progress: Progress, training: DrivingTraining) -> None:
    progress.update(training.total_updates, training.memory.env_steps, training.epoch + 1)
