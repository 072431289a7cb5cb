"""How a launch of a sweep begins: one at a time, cleared if asked for, with a study of the same fingerprint."""

from enum import Enum
from pathlib import Path

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, read_write
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.filesize import decimal

from app.config.describe import allowed
from app.config.job import jobs_at_once
from app.config.load import load
from app.config.schema import Config, StudyName
from app.envs.factory import make_spec
from app.errors import UserError
from app.replay.forecast import HEADROOM, forecast
from app.reporting.formatting import make_console, tell
from app.restart.study import StudyRestart
from app.sweep.fingerprint import study_fingerprint
from app.sweep.folder import StudyFolder
from app.sweep.launch import Launch
from app.sweep.storage import Stored
from app.sweep.sweep import Sweep

_PROCESS_BYTES = 900 * 2**20  # of a job beside its replay: interpreter, libraries, networks, a batch


def begin_sweep(cfg: DictConfig) -> Sweep:
    """Take the place in a study that a launch asks for, and make the study ready for the sweeper.

    Args:
        cfg: the whole configuration, with the node ``hydra``, before anything is searched.

    Returns:
        The sweep, until whose ``end`` this process is one of the study's launches.

    Raises:
        UserError: the sweep cannot begin, in words.
        SystemExit: with code 0, after a dry run of a restart, or if the study is complete.
    """
    sweeper, console = cfg.hydra.sweeper, make_console()
    _refuse_roles(cfg.role)
    config = load(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    folder = StudyFolder(Path(config.sweeps_dir), _study_name(cfg))
    _check_place(cfg, folder)
    stored, directions = _stored(sweeper.storage, folder), _directions(sweeper)
    _check_counts(sweeper)
    elsewhere = None if folder.holds(stored.file) else stored
    if config.restart is not None and config.restart.dry_run:
        StudyRestart(folder, elsewhere, config.restart, console).show()
        raise SystemExit(0)

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell that it made what it is given
    mine = study_fingerprint(config, searched(cfg.hydra), directions)
    folder.open()
    try:
        if config.restart is not None:
            folder.refuse_living()
            StudyRestart(folder, elsewhere, config.restart, console).carry_out()
        theirs = stored.refuse_other(mine)
        folder.settle(mine, theirs, config)
        stored.make(mine, directions)
        sweep = Sweep(folder, stored, console)
        left = sweep.take_stock(sweeper.n_trials)
        if left:
            at_once = min(left, _jobs_at_once(cfg, config, console))
            launch = Launch(folder.launches, sweeper.n_trials, at_once, left)
            _tell_hydra(cfg, folder, launch, left, at_once)
            sweep.begin(launch)
    finally:
        folder.close()
    if not left:
        sweep.report()
        raise SystemExit(0)
    return sweep


def _refuse_roles(role: object) -> None:
    """Before the rest is checked, which would ask for what that role needs."""
    if role != "local":
        raise UserError(f"role = {role}: the trials of a search train in one process each. Use role=local.")


def searched(hydra: DictConfig) -> set[str]:
    """Return the keys and groups whose values the sweeper chooses; the command line may fix one again."""
    params = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *hydra.overrides.task])
    last = {override.get_key_element().lstrip("+~"): override.is_sweep_override() for override in overrides}
    return {key for key, swept in last.items() if swept}


def _study_name(cfg: DictConfig) -> str:
    """The name, which is also that of a folder, and of a config group: ``+<study>=best`` trains with what was found."""
    name = cfg.hydra.sweeper.study_name
    try:
        TypeAdapter(StudyName).validate_python(name)
    except ValidationError:
        shown = "null" if name is None else name
        raise UserError(f"hydra.sweeper.study_name = {shown}: must have {allowed(StudyName)}.") from None
    if name in cfg:
        raise UserError(f"hydra.sweeper.study_name = {name}: is a section of the configuration. Choose another name.")
    return name


def _check_place(cfg: DictConfig, folder: StudyFolder) -> None:
    if Path(cfg.hydra.sweep.dir) != folder.path:
        raise UserError(
            f"hydra.sweep.dir = {cfg.hydra.sweep.dir}: the folder of a study is sweeps_dir/study_name. "
            "Set sweeps_dir and hydra.sweeper.study_name instead."
        )


def _stored(url: object, folder: StudyFolder) -> Stored:
    if not isinstance(url, str):
        shown = "null" if url is None else url
        raise UserError(
            f"hydra.sweeper.storage = {shown}: must be the address of a storage, such as sqlite:///{folder.database}: "
            "without one nothing outlives the sweep. Leave it out for the study's own file."
        )
    stored = Stored(url, folder.path.name)
    if not stored.outlives_process:
        raise UserError(f"hydra.sweeper.storage = {url}: nothing outlives the sweep there. Leave it out.")
    if url.endswith(f"{folder.path}/{folder.database.name}") and not folder.holds(stored.file):
        raise UserError(
            f"sweeps_dir = {folder.base}: the address of an SQLite file cannot hold its '?' or '%'. Use another folder."
        )
    return stored


def _check_counts(sweeper: DictConfig) -> None:
    for key, least in (("n_trials", 0), ("n_jobs", 1)):
        if not isinstance(sweeper[key], int) or sweeper[key] < least:
            raise UserError(f"hydra.sweeper.{key} = {sweeper[key]}: must be an integer at least {least}.")


def _directions(sweeper: DictConfig) -> list[str]:
    """The sweeper takes one or a list, of names or of members of its enumeration."""
    given = sweeper.direction if OmegaConf.is_list(sweeper.direction) else [sweeper.direction]
    names = [direction.name if isinstance(direction, Enum) else direction for direction in given]
    if wrong := [name for name in names if name not in ("minimize", "maximize")]:
        raise UserError(f"hydra.sweeper.direction = {wrong[0]}: must be minimize or maximize.")
    if len(names) != 1:
        raise UserError(f"hydra.sweeper.direction = {names}: a run has one objective. Use maximize.")
    return names


def _jobs_at_once(cfg: DictConfig, config: Config, console: Console) -> int:
    """Return how many trials are asked for at once: as many as the launcher runs, and no more than memory allows."""
    if OmegaConf.select(cfg.hydra.launcher, "n_jobs") is None:
        return max(1, cfg.hydra.sweeper.n_jobs)  # one after the other, or on other machines
    wanted = jobs_at_once(cfg.hydra.launcher)
    needed = forecast(make_spec(config.env), config.replay.capacity)
    each = needed.total_bytes + _PROCESS_BYTES
    fitting = max(1, int(needed.available_bytes * HEADROOM) // each)
    if fitting < wanted:
        tell(
            console,
            f"{fitting} jobs at once in place of {wanted}: each may need {decimal(each)}, and "
            f"{decimal(needed.available_bytes)} are free. A smaller replay.capacity lets more of them in.",
            "yellow",
        )
    return min(wanted, fitting)


def _tell_hydra(cfg: DictConfig, folder: StudyFolder, launch: Launch, left: int, at_once: int) -> None:
    """Tell the sweeper how much is left, and the jobs whose they are.

    A job is composed anew, where the name of the study could depend on what is searched, and Hydra refuses one whose
    sweeper or launcher is not the launch's.
    """
    hydra = cfg.hydra
    known = {"hydra.sweeper.n_trials": left, "hydra.sweeper.n_jobs": at_once}
    if OmegaConf.select(hydra.launcher, "n_jobs") is not None:
        known["hydra.launcher.n_jobs"] = at_once
    with read_write(hydra), read_write(hydra.sweeper), read_write(hydra.launcher), read_write(hydra.overrides.hydra):
        for key, value in known.items():
            OmegaConf.update(cfg, key, value)
        told = known | {"hydra.sweep.dir": str(folder.path), "hydra.callbacks.study.launch": launch.id}
        hydra.overrides.hydra.extend([f"{key}={_quoted(value)}" for key, value in told.items()])


def _quoted(value: str | int) -> str:
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else str(value)
