"""How a sweep begins: alone in its study folder, cleared if asked for, with a study of the same fingerprint."""

from collections.abc import Collection
from enum import Enum
from pathlib import Path

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, read_write
from pydantic import TypeAdapter, ValidationError

from app.config.describe import allowed
from app.config.load import validate
from app.config.schema import Config, Name
from app.errors import UserError
from app.reporting.formatting import make_console
from app.restart.study import StudyRestart
from app.runs.fingerprint import Flat, fingerprint
from app.sweep.folder import StudyFolder
from app.sweep.storage import Stored


def begin_sweep(cfg: DictConfig) -> StudyFolder:
    """Take the study folder that a sweep asks for, and make the study ready for the sweeper.

    Args:
        cfg: the whole configuration, with the node ``hydra``, before anything is searched.

    Returns:
        The folder, owned by this process.

    Raises:
        UserError: the sweep cannot begin, in words.
        SystemExit: with code 0, after a dry run of a restart.
    """
    sweeper, console = cfg.hydra.sweeper, make_console()
    config = validate(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Config)
    folder = StudyFolder(Path(config.sweeps_dir), _study_name(sweeper.study_name))
    _check_place(cfg, folder)
    stored, directions = _stored(sweeper.storage, folder), _directions(sweeper)
    mine = study_fingerprint(config, searched(cfg.hydra)) | {"hydra.sweeper.direction": directions}
    elsewhere = None if stored is None or folder.holds(stored.file) else stored
    if config.restart is not None and config.restart.dry_run:
        StudyRestart(folder, elsewhere, config.restart, console).show()
        raise SystemExit(0)

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell that it made what it is given
    folder.open()
    try:
        if config.restart is not None:
            StudyRestart(folder, elsewhere, config.restart, console).carry_out()
        if stored is not None:
            stored.refuse_other(mine)
        folder.settle(mine)
        trials = 0 if stored is None else stored.make(mine, directions)
        # The lock of the folder says that nobody else uses the file in it; of a storage elsewhere, nothing is known.
        stopped = stored.take_up_stopped() if stored is not None and elsewhere is None else 0
    except BaseException:
        folder.close()
        raise
    console.print(f"study {folder.path} · trials so far: {trials}", style="green", markup=False, soft_wrap=True)
    if stopped:
        console.print(f"trials that were stopped and go on first: {stopped}", style="green")
    _tell_jobs(cfg, folder)
    return folder


def study_fingerprint(config: Config, free: Collection[str]) -> Flat:
    """Return what makes the trials of a study comparable and safe to go on with.

    Args:
        config: before anything is searched.
        free: the keys and groups that are searched: their values belong to the trials.
    """
    flat = {"objective": config.objective, **fingerprint(config)}
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{part}.") for part in free)}


def searched(hydra: DictConfig) -> set[str]:
    """Return the keys and groups whose values the sweeper chooses; the command line may fix one again."""
    params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *hydra.overrides.task])
    last = {override.get_key_element().lstrip("+~"): override.is_sweep_override() for override in overrides}
    return {key for key, swept in last.items() if swept}


def _study_name(name: str | None) -> str:
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        shown = "null" if name is None else name
        raise UserError(
            f"hydra.sweeper.study_name = {shown}: names a folder below sweeps_dir, so it must have "
            f"{allowed(Name)}, beginning with a letter or a digit."
        ) from None


def _check_place(cfg: DictConfig, folder: StudyFolder) -> None:
    if Path(cfg.hydra.sweep.dir) != folder.path:
        raise UserError(
            f"hydra.sweep.dir = {cfg.hydra.sweep.dir}: the folder of a study is sweeps_dir/study_name. "
            "Set sweeps_dir and hydra.sweeper.study_name instead."
        )


def _stored(url: object, folder: StudyFolder) -> Stored | None:
    """Return the study in its storage; None for a storage in memory, which nothing outlives."""
    if url is None:
        return None
    if not isinstance(url, str):
        raise UserError(
            f"hydra.sweeper.storage = {url}: must be the address of a storage, such as "
            f"sqlite:///{folder.database}, or null for none."
        )
    stored = Stored(url, folder.path.name)
    if url.endswith(f"{folder.path}/{folder.database.name}") and not folder.holds(stored.file):
        raise UserError(
            f"sweeps_dir = {folder.base}: the address of an SQLite file cannot hold its '?' or '%'. Use another folder."
        )
    return stored


def _directions(sweeper: DictConfig) -> list[str]:
    """The sweeper takes one or a list, of names or of members of its enumeration."""
    given = sweeper.direction if OmegaConf.is_list(sweeper.direction) else [sweeper.direction]
    names = [direction.name if isinstance(direction, Enum) else direction for direction in given]
    if wrong := [name for name in names if name not in ("minimize", "maximize")]:
        raise UserError(f"hydra.sweeper.direction = {wrong[0]}: must be minimize or maximize.")
    return names


def _tell_jobs(cfg: DictConfig, folder: StudyFolder) -> None:
    """Hand the folder to the jobs: composed anew, the name of the study could depend on what is searched."""
    overrides, path = cfg.hydra.overrides.hydra, QuotedString(str(folder.path), Quote.single).with_quotes()
    with read_write(overrides):
        overrides.append(f"hydra.sweep.dir={path}")
