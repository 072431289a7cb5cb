"""Post-mortem of a run as a command, and by itself after a run that has collapsed."""

from dataclasses import replace
from pathlib import Path

import yaml
from pydantic import TypeAdapter
from rich.console import Console

from app.ablation.failure_order import PostMortem, examine
from app.ablation.failure_text import headline
from app.config.load import CONF
from app.config.schema import Config
from app.config.schema_commands import PostMortemConfig
from app.core.atomic_files import atomic_write
from app.core.console import make_console, print_line
from app.core.errors import UserError, format_error
from app.envs.gym_task import import_named_module
from app.health.collapse import first_collapse
from app.reporting.curves import read_metrics
from app.runs.run_folder import RunFolder
from app.training.setup import prepare_process


def run_post_mortem(cfg: PostMortemConfig) -> PostMortem:
    """Examine a run, print what failed first, and write the page into its folder.

    Raises:
        UserError: The folder holds no run with an epoch, or the run or the record is damaged.
    """
    folder, console = RunFolder(Path(cfg.run)), make_console()
    found = _examine(folder, cfg)
    if cfg.video:
        import_named_module(cfg.env_module)
        prepare_process("cpu", cfg.threads, found.config.seed)
    _write_page(found, folder, cfg)
    for line in headline(found):
        print_line(console, line)
    print_line(console, f"page  {folder.post_mortem}")
    return found


def write_after_collapse(config: Config, console: Console) -> None:
    """Write the page of a run that has just ended, if ``health`` calls it collapsed after any epoch.

    A page that cannot be written costs one line on the console.

    Args:
        config: Configuration of the run.
        console: Console for messages.
    """
    folder = RunFolder(Path(config.runs_dir) / config.run_name)
    try:
        if not _is_due(folder, config):
            return
        print_line(console, "The run has collapsed. Writing what failed first; Ctrl-C skips this.", "yellow")
        cfg = replace(_default_config(folder), video=config.logger.video)
        found = _examine(folder, cfg)
        _write_page(found, folder, cfg)
        print_line(console, f"What failed first: {folder.post_mortem}")
    except Exception as error:  # the run is complete without it
        print_line(console, f"The post-mortem cannot be written: {format_error(error)}", "yellow")


def _is_due(folder: RunFolder, config: Config) -> bool:
    """Return whether a run has collapsed and the page does not show all of it yet."""
    page, metrics = folder.post_mortem, folder.metrics
    if not metrics.is_file() or (page.is_file() and page.stat().st_mtime >= metrics.stat().st_mtime):
        return False
    return first_collapse(read_metrics(metrics), config) is not None


def _default_config(folder: RunFolder) -> PostMortemConfig:
    """Return the configuration of the command for a run."""
    values = yaml.safe_load((CONF / "postmortem.yaml").read_text(encoding="utf-8")) | {"run": str(folder.path)}
    keys = [key for key in values if key not in ("defaults", "hydra")]
    return TypeAdapter(PostMortemConfig).validate_python({key: values[key] for key in keys})


def _examine(folder: RunFolder, cfg: PostMortemConfig) -> PostMortem:
    records = {task: CONF.parent / folder_of_lab for task, folder_of_lab in cfg.records.items()}
    return examine(folder, records, None if cfg.record is None else Path(cfg.record))


def _write_page(found: PostMortem, folder: RunFolder, cfg: PostMortemConfig) -> None:
    # Imported here: a run that has not collapsed needs no plotly.
    from app.ablation.failure_page import render_post_mortem
    from app.ablation.policy_videos import record_policies

    videos, problem = record_policies(folder, found.config, cfg.video_size) if cfg.video else ((), None)
    text = render_post_mortem(found, videos, problem)
    try:
        with atomic_write(folder.post_mortem) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder.post_mortem}: cannot be written ({error.strerror}).") from None
