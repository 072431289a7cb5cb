"""End of a run: evaluation of the best policy, curves, video, and the summary."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from app.config.key_effects import can_change_result
from app.config.schema import Config
from app.core.atomic_files import write_json
from app.core.console import print_line
from app.core.json_data import read_json
from app.evaluation.episodes import REPORT_OFFSET
from app.evaluation.evaluator import Evaluator, evaluation_starts
from app.evaluation.results import Evaluation
from app.models.actor import DrivingActor
from app.reporting.curves import plot_curves
from app.reporting.run_report import RunReport
from app.reporting.summary import print_summary
from app.runs.checkpoint import State
from app.runs.fingerprint import flatten, require_same_fingerprint
from app.runs.run_folder import RunFolder
from app.training.evaluate_run import record_best_episode
from app.training.resume import Source
from app.training.stop import INTERRUPTED, TERMINATED, StopKind, Stopped, StopReason


def finished_objective(config: Config, folder: RunFolder, source: Source, console: Console) -> float | None:
    """Print the summary again and return the objective if an earlier start has finished the run as it is asked for.

    Args:
        config: Configuration of this start.
        folder: Folder of the run.
        source: The checkpoints of the run.
        console: Console to print on.

    Returns:
        The objective; None if there is something left to do: epochs, a restart, or a summary.

    Raises:
        UserError: The run has finished under other settings, so its result is not that of this configuration.
    """
    newest = source.candidates[0].state if source.candidates else None
    if config.restart or newest is None or newest["epochs_done"] < config.training.epochs:
        return None
    try:
        summary = read_json(folder.summary)
        if summary["stop_reason"] != StopKind.FINISHED.value or summary["updates"] != newest["training"]["updates"]:
            return None
        _require_same_result(config, folder, newest)
        objective = math.nan if summary["objective"] is None else summary["objective"]  # JSON has no NaN
        print_summary(console, summary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the summary is missing or incomplete
        return None
    print_line(
        console,
        f"{folder.path} has finished already. To train it further, raise training.epochs; to start anew, add "
        "+restart=clean or choose another run_name.",
        "green",
    )
    return objective


def _require_same_result(config: Config, folder: RunFolder, state: State) -> None:
    """Raise if a finished run had other settings, under which the result might have been another one."""
    recorded, current = state["config"], flatten(asdict(config.to_record()))
    keys = [key for key in current if key in recorded and can_change_result(key)]
    require_same_fingerprint(
        f"{folder.path} has finished, and",
        *({key: flat[key] for key in keys} for flat in (recorded, current)),
        "Its result is not that of these settings: choose another run_name, or add +restart=clean to replace the run. "
        "Only more epochs than it has (training.epochs) would continue it under them.",
    )


class Finalizer:
    """Evaluates the best policy of a run and writes what remains of the run.

    Args:
        config: Configuration of the run.
        folder: Folder of the run.
        console: Console to print on.
        evaluator: Drives the evaluation episodes.
        actor: Receives the weights of the best policy.
        report: Writes the page about the run.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        console: Console,
        evaluator: Evaluator,
        actor: DrivingActor,
        report: RunReport,
    ):
        self.config, self.folder, self.console = config, folder, console
        self.evaluator, self.actor, self.report = evaluator, actor, report

    def finalize(
        self, reason: StopReason, counters: Mapping[str, float], best: Mapping[str, Any], objective: float
    ) -> dict[str, Any]:
        """Evaluate the best policy on new starts, plot the curves, record a video, and write summary and report.

        Ctrl-C skips everything but summary and report; so does SIGTERM, which leaves no time.

        Args:
            reason: Reason why the run stopped.
            counters: Epochs, updates, steps and times of the run.
            best: Evaluation of the best policy; empty if there is none.
            objective: The final objective, or NaN.

        Returns:
            The summary.
        """
        folder = self.folder
        results: dict[str, Any] = {key: value for key, value in best.items() if key.endswith(("_raw", "_averaged"))}
        paths: dict[str, Any] = {"folder": folder.path, "metrics": folder.metrics, "summary": folder.summary}
        try:
            if best and reason != TERMINATED:
                self.console.print("Evaluating the best policy on new starts; Ctrl-C skips this.")
                results |= self._evaluate_best(paths, best["best_epoch"]) | {"best_epoch": best["best_epoch"]}
        except (KeyboardInterrupt, Stopped) as stop:
            self.console.print("Skipped.")
            reason = stop.reason if isinstance(stop, Stopped) else INTERRUPTED
        if self.config.logger.report:
            paths["report"] = folder.report
        summary = {
            "run_name": folder.path.name,
            "stop_reason": str(reason),
            **counters,
            "selection": best,
            **results,
            "paths": paths,
            "objective": objective,
            "objective_name": self.config.objective,
        }
        is_written = self._write_summary(summary)
        if self.config.logger.report and not self.report.write(str(reason)):
            del paths["report"]
            if is_written:
                self._write_summary(summary)
        print_summary(self.console, summary)
        if reason in (INTERRUPTED, TERMINATED):
            print_line(self.console, f"{same_command(self.config).capitalize()} resumes the run.", "green")
        return summary

    def _write_summary(self, summary: Mapping[str, Any]) -> bool:
        """Write the summary, or a warning: the result is printed in any case; return whether it is written."""
        try:
            write_json(self.folder.summary, summary)
        except OSError as error:
            print_line(self.console, f"{self.folder.summary}: cannot be written ({error.strerror}).", "yellow")
            return False
        return True

    def _evaluate_best(self, paths: dict[str, Any], best_epoch: int) -> dict[str, Any]:
        """Evaluate the best policy on starts that did not choose it, and add the files that were made to ``paths``."""
        self.folder.load_best(self.actor)
        paths["best"] = self.folder.best_actor
        starts = evaluation_starts(self.config.env, self.config.training, REPORT_OFFSET)
        evaluation = self.evaluator.evaluate(self.actor, *starts)
        try:
            paths |= self._make_pictures(evaluation, best_epoch)
        except Exception as error:  # a missing codec, display or disk space must not cost the result
            print_line(self.console, f"Curves and video cannot be made: {error}", "yellow")
        return {**evaluation.metrics(), "episodes": evaluation.episodes()}

    def _make_pictures(self, evaluation: Evaluation, best_epoch: int) -> dict[str, Any]:
        config, folder, paths = self.config, self.folder, {}
        if config.logger.curves:
            plot_curves(folder.metrics, folder.curves)
            paths["curves"] = folder.curves
        if not config.logger.video or config.env.real_time:  # the game shows itself
            return paths
        starts, _ = evaluation_starts(config.env, config.training, REPORT_OFFSET)
        video = record_best_episode(
            self.actor,
            config.env,
            starts,
            evaluation.deterministic,
            config.seed,
            config.logger.video_size,
            f"{folder.path.name}, epoch {best_epoch}",
            folder.best_video,
        )
        if video is not None:
            paths["video"] = folder.best_video
        return paths


def same_command(config: Config) -> str:
    """Return the command that resumes the run, in words: one with a restart would clear everything again."""
    return "the same command without +restart" if config.restart else "the same command"
