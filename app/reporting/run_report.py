"""Page about a run, ``report.html`` in its folder, rewritten after every epoch and at the end."""

from rich.console import Console

from app.config.schema import Config
from app.core.atomic_files import atomic_write
from app.core.console import print_line
from app.core.errors import format_error
from app.health.collapse import first_collapse
from app.health.score import History
from app.reporting.curves import read_metrics
from app.reporting.run_facts import RUNNING, state_of
from app.runs.run_folder import RunFolder


class RunReport:
    """Writes the page of a run; one that cannot be written costs a warning, and never the run.

    Args:
        folder: Folder of the run.
        config: Configuration of the run; without ``logger.report`` nothing is written.
        console: Console for the warning.
    """

    def __init__(self, folder: RunFolder, config: Config, console: Console):
        self._folder, self._config, self._console = folder, config, console
        self._collapse: tuple[int, str] | None = None  # first epoch that counts as collapsed, and why
        self._checked = 0  # epochs that the rules of a collapse have seen
        self._warned = False

    def write(self, stop_reason: str | None = None) -> bool:
        """Write the page from the files of the folder.

        Args:
            stop_reason: Reason why the run has stopped, as in its summary; None while it goes on.

        Returns:
            Whether the page shows the newest epoch now.
        """
        if not self._config.logger.report:
            return False
        try:
            self._write(RUNNING if stop_reason is None else state_of(stop_reason), stop_reason)
        except Exception as error:  # no failure of a record may end a training run
            if not self._warned:
                text = f"{self._folder.report}: cannot be written, the training continues: {format_error(error)}"
                print_line(self._console, text, "yellow")
                self._warned = True
            return False
        return True

    def _write(self, state: str, stop_reason: str | None) -> None:
        # Imported here: a run without a report needs no plotly.
        from app.reporting.run_report_page import render_report

        history = read_metrics(self._folder.metrics) if self._folder.metrics.is_file() else []
        self._check(history)
        text = render_report(self._folder, self._config, history, state, stop_reason, self._collapse)
        with atomic_write(self._folder.report) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _check(self, history: History) -> None:
        """Ask the rules of a collapse about the epochs that they have not seen, until one of them finds something."""
        if self._collapse is None and (found := first_collapse(history, self._config, self._checked)) is not None:
            length, reason = found
            self._collapse = history[length - 1].get("epoch", length), reason  # a full disk costs epochs
        self._checked = len(history)
