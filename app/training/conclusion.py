"""The end of a run: judge the best policy, draw, film, sum up."""

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from app.config.schema import Config
from app.files import write_json
from app.models.actor import DrivingActor
from app.reporting.curves import plot_curves
from app.reporting.formatting import tell
from app.reporting.results import Evaluation
from app.reporting.summary import print_summary
from app.runs.folder import RunFolder
from app.training.assess import film_best
from app.training.beginning import Source
from app.training.evaluation import Evaluator, starts_of
from app.training.stop import Stopped

REPORT = 0.5  # offset of the starts that judge the best policy: not those that chose it


def finished_before(config: Config, folder: RunFolder, source: Source, console: Console) -> float | None:
    """Show the summary again if an earlier start has ended the run.

    Args:
        config: of this start.
        folder: of the run.
        source: what it would begin from.
        console: where to print.

    Returns:
        The objective of the run; None if there is something to do: epochs, a restart, or a summary to be made.
    """
    newest = source.candidates[0].state if source.candidates else None
    if config.restart or newest is None or newest["epochs_done"] < config.training.epochs:
        return None
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        if summary["stop_reason"] != "finished" or summary["updates"] != newest["training"]["updates"]:
            return None
        objective = _number(summary["objective"])
        print_summary(console, summary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # there is none, or not a whole one
        return None
    tell(
        console,
        f"{folder.path} had finished before. To go on with it, raise training.epochs; to begin anew, add "
        "+restart=clean or choose another run_name.",
        "green",
    )
    return objective


class Conclusion:
    """Sums up a run.

    Args:
        config: of the run.
        folder: of the run.
        console: where to print.
        evaluator: drives the judging episodes.
        actor: takes over the weights of the best policy.
    """

    def __init__(self, config: Config, folder: RunFolder, console: Console, evaluator: Evaluator, actor: DrivingActor):
        self.config, self.folder, self.console = config, folder, console
        self.evaluator, self.actor = evaluator, actor

    def sum_up(self, reason: str, counters: Mapping[str, float], best: Mapping[str, Any], objective: float) -> None:
        """Judge the best policy on fresh starts, draw, film, and write the summary.

        Ctrl-C cuts this short, and SIGTERM leaves no time for it; the summary is written in any case.

        Args:
            reason: why the run stopped.
            counters: what it has done.
            best: what its best policy reached, empty without one.
            objective: what it counts with, or NaN.
        """
        summary: dict[str, Any] = {"run_name": self.folder.path.name, "stop_reason": reason}
        summary |= {**counters, "selection": best}
        summary |= {key: value for key, value in best.items() if key.endswith(("_raw", "_averaged"))}
        folder = self.folder
        paths: dict[str, Any] = {"folder": folder.path, "metrics": folder.metrics, "summary": folder.summary}
        try:
            if best and reason != "terminated":
                self.console.print("judging the best policy on fresh starts; Ctrl-C skips this")
                summary |= self._judge(paths) | {"best_epoch": best["best_epoch"]}
        except (KeyboardInterrupt, Stopped) as stop:
            self.console.print("skipped")
            summary["stop_reason"] = stop.reason if isinstance(stop, Stopped) else "interrupted"
        summary |= {"paths": paths, "objective": objective, "objective_name": self.config.objective}
        try:
            write_json(folder.summary, summary)
        except OSError as error:  # the result can still be read below
            tell(self.console, f"{folder.summary}: cannot be written ({error.strerror})", "yellow")
        print_summary(self.console, summary)
        if summary["stop_reason"] in ("interrupted", "terminated"):
            tell(self.console, f"{same_command(self.config).capitalize()} goes on from here.", "green")

    def _judge(self, paths: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the best policy on starts that did not choose it, and draw; adds to ``paths``."""
        self.folder.load_best(self.actor)
        paths["best"] = self.folder.best_actor
        evaluation = self.evaluator.evaluate(self.actor, *starts_of(self.config, REPORT))
        try:
            paths |= self._pictures(evaluation)
        except Exception as error:  # a codec, a display or space that is missing must not cost the result
            tell(self.console, f"no pictures: {error}", "yellow")
        return evaluation.metrics()

    def _pictures(self, evaluation: Evaluation) -> dict[str, Any]:
        config, folder, paths = self.config, self.folder, {}
        if config.logger.curves:
            plot_curves(folder.metrics, folder.curves)
            paths["curves"] = folder.curves
        if config.env.real_time:  # the game shows itself, to whoever plays it
            return paths
        det, _ = starts_of(config, REPORT)
        film = (self.actor, config.env, det, evaluation.deterministic, config.seed, config.logger.video_size)
        if config.logger.video and film_best(*film, folder.best_video):
            paths["video"] = folder.best_video
        return paths


def same_command(config: Config) -> str:
    """Return how to go on: a command with a restart would clear everything again."""
    return "the same command without +restart" if config.restart else "the same command"


def _number(value: float | None) -> float:
    """JSON has no NaN."""
    return math.nan if value is None else value
