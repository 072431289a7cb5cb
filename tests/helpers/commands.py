"""Commands of ``app/`` in this process, up to the point where their work would begin."""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hydra.core.global_hydra import GlobalHydra

from app.config.cli import run


class Command(NamedTuple):
    """A command.

    Attributes:
        schema: Dataclass of its configuration.
        work: Function that does its work, once the configuration has been read.
    """

    schema: str
    work: str


_COMMANDS = "app.config.schema_commands"
COMMANDS = {
    "train": Command("app.config.schema:Config", "app.launch.run_role"),
    "doctor": Command("app.config.schema:Config", "app.diagnostics.checkup.run_checkup"),
    "lab": Command("app.config.schema_lab:LabConfig", "app.ablation.lab_session.make_plan"),
    "evaluate": Command(f"{_COMMANDS}:EvaluateConfig", "app.training.evaluate_run.evaluate_run"),
    "export": Command(f"{_COMMANDS}:ExportConfig", "app.export_bundle.export_run.export"),
    "list_runs": Command(f"{_COMMANDS}:ListRunsConfig", "app.run_list.show_runs.show_runs"),
    "make_keys": Command(f"{_COMMANDS}:MakeKeysConfig", "app.distributed.certificates.make_keys"),
    "play": Command(f"{_COMMANDS}:PlayConfig", "app.driving_game.game.play"),
    "postmortem": Command(f"{_COMMANDS}:PostMortemConfig", "app.ablation.run_post_mortem.run_post_mortem"),
    "replay_viewer": Command(f"{_COMMANDS}:ReplayViewerConfig", "app.viewer.view_run.view_run"),
    "sweep_report": Command(f"{_COMMANDS}:SweepReportConfig", "app.sweep.study_folder.find_study"),
    "validate": Command(f"{_COMMANDS}:ValidateConfig", "app.sweep.validation.validate_study.validate_study"),
}


class WorkBegins(BaseException):
    """Raised in place of the work of a command."""


def answer(name: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch, work_is_there: bool = True) -> str | None:
    """Return the sentence with which a command refuses a command line; None if its work would begin.

    Args:
        name: Name of the command, such as "train".
        words: Its command line, without the name.
        monkeypatch: Undone before this returns.
        work_is_there: Whether the module of the work, which imports what is slow, can be imported.

    Raises:
        Exception: Whatever a user would see as a traceback.
    """

    def begin(*_: object, **__: object) -> None:
        raise WorkBegins

    work = COMMANDS[name].work
    work_module = work.rpartition(".")[0]
    with monkeypatch.context() as patch:
        if work_is_there:
            importlib.import_module(work_module)
            patch.setattr(work, begin)
        else:
            patch.setitem(sys.modules, work_module, None)
        try:
            refused = refusal(name, words, monkeypatch)
        except WorkBegins:
            return None
    if refused is None:
        raise AssertionError(f"app/{name}.py {words}: neither began its work nor refused")
    return refused


def refusal(name: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run a command with its work; return the sentence with which it refuses or fails, or None if it succeeds.

    Args:
        name: Name of the command, such as "train".
        words: Its command line, without the name.
        monkeypatch: Undone before this returns.

    Raises:
        Exception: Whatever a user would see as a traceback.
    """
    module = importlib.import_module(f"app.{name}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *words])
        patch.setenv("HYDRA_MAIN_MODULE", "__main__")  # paths count from the file of the command, as when it is run
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        patch.setattr(sys, "stdout", sys.stdout)  # the command replaces both
        patch.setattr(sys, "stderr", sys.stderr)
        try:
            run(module.main, COMMANDS[name].schema)
        except SystemExit as end:
            return end.code if isinstance(end.code, str) else f"exit code {end.code}"
        finally:
            GlobalHydra.instance().clear()
    return None
