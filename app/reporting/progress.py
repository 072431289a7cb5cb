"""Progress of a run: a live bar in a terminal, plain lines elsewhere."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.evaluation.results import spread_of
from app.reporting.number_format import duration, lap_share, lap_time, plus_minus, significant

_BAR_PERIOD = 0.25  # s between redraws
_PLAIN_PERIOD = 10.0  # s between lines
_SAMPLE_PERIOD = 0.5  # s between points of the sliding window
_WINDOW = 30.0  # s that the rates look back


class Progress:
    """Shows epoch, updates, rates, remaining time and the last evaluation.

    ``update`` may be called after every update and every step: most calls only compare two times.

    Args:
        mode: "bar", "plain" lines, "none", or "auto" for a bar in a terminal and plain lines elsewhere.
        total_updates: Updates of the whole run.
        epochs: Epochs of the whole run.
        console: Console to print on; the bar shares it with everything else that prints.
        clock: Returns seconds; replaced in tests.
    """

    def __init__(
        self,
        mode: Literal["auto", "bar", "plain", "none"],
        total_updates: int,
        epochs: int,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if mode == "auto":
            mode = "bar" if console.is_terminal and not console.is_dumb_terminal else "plain"
        self._mode, self._console, self._clock = mode, console, clock
        self._total, self._epochs = total_updates, epochs
        self._live: Live | None = None
        self._period = _PLAIN_PERIOD if mode == "plain" else _BAR_PERIOD
        self._updates = self._env_steps = self._epoch = 0
        self._last_evaluation = ""
        self._evaluation_start = math.nan  # NaN while there is none

    def start(self, updates: int = 0, env_steps: int = 0) -> None:
        """Start the display.

        Args:
            updates: Updates already done, if the run is resumed.
            env_steps: Environment steps already done.
        """
        self._updates, self._env_steps = updates, env_steps
        self._start = self._clock()
        self._updates_before = updates
        self._training_start = (
            math.nan
        )  # time of the first update: the steps before it must not spoil the remaining time
        self._samples: deque[tuple[float, int, int]] = deque()
        self._next_sample = self._start
        self._next_show = self._start + self._period
        if self._mode == "bar":
            self._live = Live(self._bar(), console=self._console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)

    def update(self, updates: int, env_steps: int, epoch: int) -> None:
        """Set the counters: updates and environment steps since the run began, and the epoch, counted from 1."""
        self._updates, self._env_steps, self._epoch = updates, env_steps, epoch
        if self._mode == "none":
            return
        now = self._clock()
        if math.isnan(self._training_start) and updates > self._updates_before:
            self._training_start, self._updates_before = now, updates
        if now >= self._next_sample:
            self._sample(now)
        if now >= self._next_show:
            self._show(now)

    def evaluating(self) -> None:
        """Show that an evaluation is running, until ``evaluated``; the rates leave its time out."""
        self._evaluation_start = self._clock()
        self._redraw()

    def evaluated(self, metrics: Mapping[str, float], best: bool) -> None:
        """Print one line with the evaluation of the epoch, which stays above the bar.

        Args:
            metrics: Metrics of the evaluation.
            best: Whether it is the best one so far.
        """
        now = self._clock()
        pause = 0.0 if math.isnan(self._evaluation_start) else now - self._evaluation_start
        self._evaluation_start = math.nan
        self._samples = deque((when + pause, *counters) for when, *counters in self._samples)
        if self._mode == "none":
            return
        self._last_evaluation = _evaluation(metrics)
        epoch = f"epoch {self._epoch:>{len(str(self._epochs))}}"
        mark = ("  best", "bold green") if best else ""
        line = Text.assemble((epoch, "bold"), "  ", self._last_evaluation, mark)
        self._console.print(line, soft_wrap=True)
        self._next_show = now + self._period
        self._redraw()

    def stop(self) -> None:
        """Remove the bar; a second call does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def rates(self) -> tuple[float, float]:
        """Return updates and environment steps per second over the sliding window; NaN while unknown."""
        if len(self._samples) < 2:
            return math.nan, math.nan
        (t0, updates0, steps0), (t1, updates1, steps1) = self._samples[0], self._samples[-1]
        return (updates1 - updates0) / (t1 - t0), (steps1 - steps0) / (t1 - t0)

    def _sample(self, now: float) -> None:
        self._next_sample = now + _SAMPLE_PERIOD
        self._samples.append((now, self._updates, self._env_steps))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()

    def _show(self, now: float) -> None:
        self._next_show = now + self._period
        self._redraw()
        if self._mode == "plain":
            self._console.print(Text(" · ".join([self._position(), *self._facts()])), soft_wrap=True)

    def _redraw(self) -> None:
        if self._live is not None:
            self._live.update(self._bar(), refresh=True)

    def _remaining(self) -> float:
        """Return the seconds to the end, at the mean speed since the first update, evaluations included."""
        done = self._updates - self._updates_before
        if math.isnan(self._training_start) or not done:
            return math.nan
        return (self._total - self._updates) * (self._clock() - self._training_start) / done

    def _position(self) -> str:
        return f"epoch {self._epoch}/{self._epochs} · {self._updates:,}/{self._total:,} updates"

    def _facts(self) -> list[str]:
        updates_rate, steps_rate = self.rates()
        return [
            f"{self._env_steps:,} env steps",
            f"{significant(steps_rate)} steps/s",
            f"{significant(updates_rate)} updates/s",
            f"ETA {duration(self._remaining())}",
        ]

    def _bar(self) -> Table:
        """Return two or three lines: bar, rates, last evaluation."""
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        share = f"{self._updates / self._total:4.0%}"
        bar.add_row(
            Text(self._position(), style="bold"),
            ProgressBar(self._total, self._updates, complete_style="cyan", finished_style="green"),
            Text(f"{share}  {duration(self._clock() - self._start)}"),
        )
        lines = Table.grid(expand=True)
        lines.add_column(no_wrap=True, overflow="ellipsis")
        lines.add_row(bar)
        lines.add_row(Text(" · ".join(self._facts()), style="cyan"))
        lines.add_row(Text(self._status(), style="dim"))
        return lines

    def _status(self) -> str:
        if not math.isnan(self._evaluation_start):
            return "evaluating ..."
        if self._updates == 0:
            return "collecting the first steps ..."
        return f"last evaluation: {self._last_evaluation}" if self._last_evaluation else "no evaluation yet"


def _evaluation(metrics: Mapping[str, float]) -> str:
    """Return an evaluation in one line, short enough for 80 columns."""
    parts = [f"return {plus_minus(metrics['return_test_det'], spread_of(metrics, 'return_test_det'))}"]
    if "return_test_stoch" in metrics:
        parts.append(f"stochastic {significant(metrics['return_test_stoch'])}")
    if "lap_share_det" in metrics:
        parts.append(f"lap {lap_share(metrics['lap_share_det'], spread_of(metrics, 'lap_share_det'))}")
    if "lap_time_det" in metrics:
        parts.append(lap_time(metrics["lap_time_det"]))
    return " · ".join(parts)
