"""Start of a sweep: checks its settings, clears or continues the study, and makes this process one of its launches."""

import warnings
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import optuna
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.filesize import decimal

from app.config.describe import allowed
from app.config.load import load
from app.config.multirun import count_parallel_jobs, expand_sweep_dir, quoted, runs_here, without_hydra
from app.config.schema import Config
from app.config.types import StudyName
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.envs.gym_task import import_task_module
from app.replay.memory_check import USABLE_SHARE, estimate_memory
from app.runs.fingerprint import FlatDict
from app.sweep.restart_study import StudyRestart
from app.sweep.search_space import SearchSpace, check_sampler, check_search_space, read_search_space
from app.sweep.session import Launch, SweepSession
from app.sweep.study_fingerprint import HINT, study_fingerprint
from app.sweep.study_folder import StudyFolder
from app.sweep.study_store import StudyStore
from app.training.setup import resolve_device

_PROCESS_BYTES = 900 * 2**20  # of a job beside its replay: interpreter, libraries, networks, a batch


def start_session(cfg: DictConfig) -> SweepSession | None:
    """Check the settings of a sweep, make its study ready, and start a launch of it.

    Args:
        cfg: Whole configuration before anything is searched, with the node ``hydra``; the number of jobs, the folder
            and the launch are written into it for the jobs.

    Returns:
        The session, with its launch started; None after a dry run of a restart, or if no trial is left to run.

    Raises:
        UserError: The sweep cannot start; the message says what to do.
    """
    try:
        return _start_session(cfg)
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from None


def _start_session(cfg: DictConfig) -> SweepSession | None:
    sweeper, console = cfg.hydra.sweeper, make_console()
    _require_local_role(cfg.role)
    expand_sweep_dir(cfg.hydra)
    config = load(without_hydra(cfg))
    import_task_module(config.env)
    folder = StudyFolder(Path(config.sweeps_dir), _study_name(cfg))
    _check_folder(cfg, folder)
    store, directions = _open_store(sweeper.storage, folder), _directions(sweeper)
    _check_counts(sweeper)
    restart = None
    if config.restart is not None:
        restart = StudyRestart(folder, None if folder.holds(store.file) else store, config.restart, console)
        if config.restart.dry_run:
            restart.preview()

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would report every study that it makes
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of samplers
    space = read_search_space(cfg.hydra)
    check_search_space(space, cfg)
    check_sampler(sweeper.sampler, space)
    _require_devices(cfg.hydra, config, space)
    fingerprint = study_fingerprint(config, space.distributions, directions)
    if restart is not None and config.restart.dry_run:
        folder.require_own()
        if restart.keeps_study:
            _require_comparable(folder, store, fingerprint, space.distributions)
        return None
    folder.open()
    try:
        if restart is not None:
            folder.require_no_launch()
            if restart.keeps_study:  # else there is nothing to compare with
                _require_comparable(folder, store, fingerprint, space.distributions)
            restart.apply()
        session = SweepSession(folder, store, space, console)
        recorded = _require_comparable(folder, store, fingerprint, space.distributions)
        folder.register(fingerprint, recorded, config)
        store.create(fingerprint, directions)
        remaining = session.recover(sweeper.n_trials)
        if remaining:
            batch_size = min(remaining, _batch_size(cfg.hydra, config, console))
            launch = Launch(
                folder.launches, store, space, sweeper.n_trials, batch_size, remaining, store.count_launch()
            )
            session.start(launch)
            _configure_jobs(cfg, session)
    finally:
        folder.close()
    if not remaining:
        session.write_results()
        return None
    return session


def _require_comparable(
    folder: StudyFolder, store: StudyStore, fingerprint: FlatDict, space: Mapping[str, BaseDistribution]
) -> FlatDict | None:
    """Return the recorded fingerprint of a study whose trials are comparable with those of this sweep.

    Raises:
        UserError: The study was made under another fingerprint, or for an incompatible search space.
    """
    recorded = store.require_same_fingerprint(fingerprint)
    if (name := store.incompatible_parameter(space)) is not None:
        raise UserError(
            f"{store}: earlier trials searched {name} in another way, and Optuna allows no other choices or scale for "
            f"it. Set hydra.sweeper.params as it was. {HINT}"
        )
    return folder.require_same_fingerprint(fingerprint) or recorded


def _require_local_role(role: object) -> None:
    """Refuse another role before the other checks, which would ask for what that role needs."""
    if role != "local":
        raise UserError(f"role = {role}: the trials of a search train in one process each. Use role=local.")


def _require_devices(hydra: DictConfig, config: Config, space: SearchSpace) -> None:
    """Refuse a device that this machine does not have once, and not in every trial; a cluster has its own."""
    searched = space.distributions.get("device")
    if runs_here(hydra.launcher):
        for device in (config.device,) if searched is None else searched.choices:
            resolve_device(device)


def _study_name(cfg: DictConfig) -> str:
    """Return the name of the study, its folder and its configuration group: ``+<study>=best`` trains the best trial."""
    name = cfg.hydra.sweeper.study_name
    try:
        TypeAdapter(StudyName).validate_python(name)
    except ValidationError:
        shown = "null" if name is None else name
        raise UserError(f"hydra.sweeper.study_name = {shown}: must have {allowed(StudyName)}.") from None
    if name in cfg:
        raise UserError(f"hydra.sweeper.study_name = {name}: is a section of the configuration. Choose another name.")
    return name


def _check_folder(cfg: DictConfig, folder: StudyFolder) -> None:
    if Path(cfg.hydra.sweep.dir) != folder.path:
        raise UserError(
            f"hydra.sweep.dir = {cfg.hydra.sweep.dir}: the folder of a study is sweeps_dir/study_name. "
            "Set sweeps_dir and hydra.sweeper.study_name instead."
        )


def _open_store(url: object, folder: StudyFolder) -> StudyStore:
    if not isinstance(url, str):
        shown = "null" if url is None else url
        raise UserError(
            f"hydra.sweeper.storage = {shown}: must be the address of a storage, such as sqlite:///{folder.database}: "
            "without one nothing outlives the sweep. Leave it out for the study's own file."
        )
    store = StudyStore(url, folder.path.name)
    if not store.is_persistent:
        raise UserError(f"hydra.sweeper.storage = {url}: nothing outlives the sweep there. Leave it out.")
    if url.endswith(f"{folder.path}/{folder.database.name}") and not folder.holds(store.file):
        raise UserError(
            f"sweeps_dir = {folder.base}: the address of an SQLite file cannot hold its '?' or '%'. Use another folder."
        )
    return store


def _check_counts(sweeper: DictConfig) -> None:
    for key, least in (("n_trials", 0), ("n_jobs", 1)):
        if not isinstance(sweeper[key], int) or sweeper[key] < least:
            raise UserError(f"hydra.sweeper.{key} = {sweeper[key]}: must be an integer at least {least}.")
    if not isinstance(rate := sweeper.max_failure_rate, (int, float)) or not 0 <= rate <= 1:
        raise UserError(f"hydra.sweeper.max_failure_rate = {rate}: must be a number at least 0 and at most 1.")


def _directions(sweeper: DictConfig) -> list[str]:
    """Return the directions as names; the sweeper takes one or a list, of names or of members of its enumeration."""
    given = sweeper.direction if OmegaConf.is_list(sweeper.direction) else [sweeper.direction]
    names = [direction.name if isinstance(direction, Enum) else direction for direction in given]
    if wrong := [name for name in names if name not in ("minimize", "maximize")]:
        raise UserError(f"hydra.sweeper.direction = {wrong[0]}: must be minimize or maximize.")
    if len(names) != 1:
        raise UserError(f"hydra.sweeper.direction = {names}: a run has one objective. Use maximize.")
    return names


def _batch_size(hydra: DictConfig, config: Config, console: Console) -> int:
    """Return how many trials are asked for at once: as many as the launcher runs, and no more than memory allows."""
    if OmegaConf.select(hydra.launcher, "n_jobs") is None:
        return hydra.sweeper.n_jobs  # one after the other, or on other machines
    wanted = count_parallel_jobs(hydra.launcher)
    needed = estimate_memory(make_spec(config.env), config.replay.capacity)
    bytes_per_job = needed.total_bytes + _PROCESS_BYTES
    fitting = max(1, int(needed.available_bytes * USABLE_SHARE) // bytes_per_job)
    if fitting < wanted:
        print_line(
            console,
            f"{fitting} jobs at once in place of {wanted}: each may need {decimal(bytes_per_job)}, and "
            f"{decimal(needed.available_bytes)} are free. A smaller replay.capacity lets more of them in.",
            "yellow",
        )
    return min(wanted, fitting)


def _configure_jobs(cfg: DictConfig, session: SweepSession) -> None:
    """Write into the configuration what the jobs must know: the study folder, their launch, and how many there are.

    Hydra composes the configuration of each job anew from the overrides. There the name of the study could depend on
    what is searched, and a launcher or sweeper that differs from the one of the launch is refused.
    """
    hydra, launch = cfg.hydra, session.launch
    values: dict[str, str | int] = {"hydra.sweeper.launch": launch.id}
    if OmegaConf.select(hydra.launcher, "n_jobs") is not None:
        values["hydra.launcher.n_jobs"] = launch.batch_size
    with read_write(hydra), read_write(hydra.sweeper), read_write(hydra.launcher), read_write(hydra.overrides.hydra):
        for key, value in values.items():
            OmegaConf.update(cfg, key, value)
        overrides = values | {"hydra.sweep.dir": str(session.folder.path)}
        hydra.overrides.hydra.extend([f"{key}={quoted(value)}" for key, value in overrides.items()])
