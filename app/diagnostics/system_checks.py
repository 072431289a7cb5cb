"""Checks of this program: packages, torch, the device, the replay, folders, and the rules between keys."""

import os
import platform
import shutil
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.filesize import decimal

from app.config.schema import Config
from app.core.errors import UserError
from app.core.system import occupied_bytes, usable_cores
from app.diagnostics.check import ALL_ROLES, TRAINING_ROLES, Check, Finding, finding_from_error, rule_checks

PROJECT = "trackmania-droq"
INSTALL = "Install what pyproject.toml requires: python -m pip install -c constraints.txt -e . (docs/install.md)."

_IMPORT_S = 30.0  # for the import of torch from a slow disk
_LOW_SPACE = 1_000_000_000  # bytes
_CUDA = "Install a build of torch with CUDA, as pytorch.org/get-started says; or use device=cpu, which is slower."


def checks(config: Config) -> list[Check]:
    """Return the checks of this program, in the order of the report."""
    reinstall = "Remove .venv and install again (docs/install.md)."
    runs = "Name another folder: runs_dir=/a/better/place."
    sweeps = "Only searches need it. Name another folder: sweeps_dir=/a/better/place."
    return [
        Check("Python", _python, ALL_ROLES, INSTALL),
        Check("packages", _packages, ALL_ROLES, INSTALL),
        Check("extras", _extras, (), INSTALL),
        Check("torch", _torch, ALL_ROLES, reinstall, _IMPORT_S),
        Check("tmrl", _tmrl, ALL_ROLES, _tmrl_remedy(), _IMPORT_S),
        Check("device", _device, (*TRAINING_ROLES, "worker"), _CUDA, _IMPORT_S),
        Check("cores", _cores, (), "Set threads."),
        Check("environment", _environment, (*TRAINING_ROLES, "worker"), "Choose another env.", _IMPORT_S),
        Check("replay", _replay, TRAINING_ROLES, "Use a smaller replay.capacity."),
        Check("runs_dir", partial(_data_folder, "runs_dir"), TRAINING_ROLES, runs),
        Check("sweeps_dir", partial(_data_folder, "sweeps_dir"), (), sweeps),
        *rule_checks(config, lambda key: not key.startswith("network.")),
    ]


# ------------------------------------------------------------------------------------------------- installed packages


def _python(_: Config) -> Finding:
    version, required = platform.python_version(), metadata.metadata(PROJECT)["Requires-Python"]
    message = f"{version}; this project needs {required}"
    if SpecifierSet(required).contains(version, prereleases=True):
        return Finding("ok", message)
    return Finding("broken", message, "Make the virtual environment with another Python.")


def _packages(_: Config) -> Finding:
    """Check the packages that every run needs."""
    required = _requirements(PROJECT, "")
    unmet = [problem for requirement in required for problem in unmet_requirements(requirement)]
    if not unmet:
        return Finding("ok", f"all {len(required)} that pyproject.toml requires are installed")
    return Finding("missing", "; ".join(unmet), INSTALL)


def _extras(_: Config) -> Finding:
    """Check the packages that only some uses need."""
    names = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    unmet = {
        name: [problem for requirement in _requirements(PROJECT, name) for problem in unmet_requirements(requirement)]
        for name in names
    }
    incomplete = [name for name in names if unmet[name]]
    if not incomplete:
        return Finding("ok", f"all are installed: {', '.join(names)}")
    listed = "; ".join(f"{name} ({', '.join(unmet[name])})" for name in incomplete)
    return Finding(
        "note",
        f"not complete, and only needed by those who use them: {listed}",
        f'To install one: python -m pip install -c constraints.txt -e ".[{incomplete[0]}]" (docs/install.md).',
    )


def unmet_requirements(requirement: Requirement) -> list[str]:
    """Return what is missing for a requirement, its extras included; a few words for each package."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return [f"{requirement.name} is not installed"]
    if not requirement.specifier.contains(version, prereleases=True):
        return [f"{requirement.name} is {version}, not {requirement.specifier}"]
    parts = [part for extra in sorted(requirement.extras) for part in _requirements(requirement.name, extra)]
    return [problem for part in parts for problem in unmet_requirements(part)]


def _requirements(package: str, extra: str) -> list[Requirement]:
    """Return what an installed package requires on this machine.

    Args:
        package: Name of the package.
        extra: The extra whose own requirements are wanted; empty: the requirements without any extra.
    """
    requirements = [Requirement(text) for text in metadata.requires(package) or []]
    always = [item for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [item for item in requirements if item not in always and item.marker.evaluate({"extra": extra})]


def _torch(_: Config) -> Finding:
    import torch

    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
    if torch.version.hip:
        build = f"built for ROCm {torch.version.hip}"
    return Finding("ok", f"{torch.__version__}, {build}")


def _tmrl(_: Config) -> Finding:
    from app.core import tmrl_api

    return Finding("ok", f"{metadata.version('tmrl')}; {len(tmrl_api.__all__)} of its parts are imported")


def _tmrl_remedy() -> str:
    config = os.path.expanduser("~/TmrlData/config/config.json")
    if not os.path.isfile(config):
        return INSTALL
    return f"tmrl reads {config} when it is imported. Move it elsewhere and check again: this program does not need it."


# ----------------------------------------------------------------------------------------------------- device and cores


def _device(config: Config) -> Finding:
    import torch

    from app.training.setup import resolve_device

    try:
        device = resolve_device(config.device)
    except UserError as error:
        return finding_from_error("missing", error)
    if device == "cpu":
        return _cpu(config.device, torch.version.cuda)
    numbers = torch.arange(8, device=device)
    if int((numbers * numbers).sum()) != 140:
        return Finding("broken", f"{device} computes wrong results", "Update its driver, or use device=cpu.")
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return Finding("ok", f"{device} is a {name} with {decimal(total)} of memory, {decimal(free)} free")


def _cpu(requested: str, cuda: str | None) -> Finding:
    """Return the finding about a run on the CPU.

    Args:
        requested: Value of ``device``.
        cuda: Version of CUDA that torch was built for; None if for the CPU only.
    """
    if requested == "cpu":
        return Finding("ok", "the CPU, as device=cpu says")
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()):
        return Finding("ok", "the CPU: there is no GPU that torch can use")
    if cuda is None:
        return Finding("note", "the CPU: there is an NVIDIA driver, and torch is built for the CPU only", _CUDA)
    remedy = "See what nvidia-smi says, and update the driver; or use device=cpu, which is slower."
    return Finding("note", f"the CPU: there is an NVIDIA driver, and torch for CUDA {cuda} finds no GPU", remedy)


def _cores(config: Config) -> Finding:
    available, threads = usable_cores(), config.threads
    message = f"{available} can be used"
    if threads > available:
        remedy = f"Use threads={available}: more are never used. 0 measures which number is faster."
        return Finding("note", f"{message}, and threads = {threads}", remedy)
    used = threads or ("one or all, whichever is faster," if available > 1 else "it")
    return Finding("ok", f"{message}, and {used} will be (threads = {threads})")


# ------------------------------------------------------------------------------------------------ environment and data


def _environment(config: Config) -> Finding:
    from app.envs.env_factory import make_env, make_spec
    from app.envs.gym_task import import_task_module

    env_config = config.env
    import_task_module(env_config)
    spec = make_spec(env_config)
    message = f"an observation of {env_config.name} has {spec.float_dim} numbers"
    if spec.image_shape is not None:
        message += f" and {spec.image_shape[0]} images of {spec.image_shape[1]} × {spec.image_shape[2]}"
    if env_config.real_time:
        return Finding("ok", message)
    env = make_env(env_config, env_config.train_tracks, config.seed)
    try:
        env.reset()
    finally:
        env.close()
    return Finding("ok", f"{message}; an episode starts")


def _replay(config: Config) -> Finding:
    from app.envs.env_factory import EnvError, make_spec
    from app.replay.memory_check import ReplayTooLarge, estimate_memory, require_memory
    from app.runs.run_folder import RunFolder

    try:
        estimate = estimate_memory(make_spec(config.env), config.replay.capacity)
        require_memory(estimate)
    except EnvError:
        message = "its size depends on the environment, which cannot be made"
        return Finding("missing", message, "Repair the environment first.")
    except ReplayTooLarge as error:
        return finding_from_error("missing", error)
    size = decimal(estimate.total_bytes)
    message = f"replay.capacity = {config.replay.capacity} takes {size}; {decimal(estimate.available_bytes)} of memory"
    folder = RunFolder(Path(config.runs_dir) / config.run_name).replay
    space = shutil.disk_usage(nearest_existing(folder)).free + occupied_bytes(folder)
    message += f" and {decimal(space)} of the disk are free"
    if space < estimate.total_bytes:
        return Finding("missing", message, "Make room, use a smaller replay.capacity, or runs_dir=/a/larger/disk.")
    return Finding("ok", message)


def _data_folder(key: str, config: Config) -> Finding:
    """Check whether files can be made in a folder, or whether the folder can be made.

    Args:
        key: Configuration key of the folder.
        config: The run that is examined.
    """
    folder = Path(getattr(config, key))
    existing, shown = (
        nearest_existing(folder),
        str(folder) if folder.is_absolute() else f"{folder} ({folder.absolute()})",
    )
    remedy = f"Name another folder, such as {key}=/a/better/place, or repair this one."
    if existing is None or not existing.is_dir():
        return Finding("broken", f"{shown}: {existing or folder.anchor} is no folder", remedy)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
    except OSError as error:
        reason = error.strerror or error
        return Finding("broken", f"{shown}: {existing.absolute()} cannot be written ({reason})", remedy)
    ability = "can be written" if existing == folder else "does not exist yet and can be made"
    free = shutil.disk_usage(existing).free
    message = f"{shown}: {ability}, {decimal(free)} free"
    return Finding("note", message, "Make room: this is soon used up.") if free < _LOW_SPACE else Finding("ok", message)


def nearest_existing(folder: Path) -> Path | None:
    """Return a folder if it exists, or else the nearest path above it that does; None if its drive does not exist."""
    return next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), None)
