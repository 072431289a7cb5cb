"""The checks of this program: packages, torch, the device, memory, folders, and the configuration itself."""

import os
import shutil
from pathlib import Path

from rich.filesize import decimal

from app.config.schema import Config
from app.diagnosis import folders, packages
from app.diagnosis.finding import EVERY, TRAINS, Check, Finding, broken_rules, told
from app.errors import UserError
from app.machine import usable_cores

_IMPORT_S = 30.0  # of torch, from a slow disk
_CUDA = "Install a build of torch with CUDA, as pytorch.org/get-started says; or device=cpu, which is slower."


def checks(config: Config) -> list[Check]:
    """Return the checks of this program, in the order in which they are told."""
    broken = "Remove .venv and install again (docs/install.md)."
    sweeps = "Only searches need it. Name another folder: sweeps_dir=/a/better/place."
    return [
        Check("Python", packages.python, EVERY, packages.INSTALL),
        Check("packages", packages.required, EVERY, packages.INSTALL),
        Check("extras", packages.extras, (), packages.INSTALL),
        Check("torch", _torch, EVERY, broken, _IMPORT_S),
        Check("tmrl", _tmrl, EVERY, _repair_tmrl(), _IMPORT_S),
        Check("device", _device, (*TRAINS, "worker"), _CUDA, _IMPORT_S),
        Check("cores", _cores, (), "Set threads."),
        Check("environment", _environment, (*TRAINS, "worker"), "Choose another env.", _IMPORT_S),
        Check("replay", _replay, TRAINS, "Use a smaller replay.capacity."),
        Check("runs_dir", _runs_dir, TRAINS, "Name another folder: runs_dir=/a/better/place."),
        Check("sweeps_dir", lambda config: folders.writable("sweeps_dir", Path(config.sweeps_dir)), (), sweeps),
        *broken_rules(config, lambda key: not key.startswith("network.")),
    ]


def _torch(_: Config) -> Finding:
    import torch

    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU alone"
    if torch.version.hip:
        build = f"built for ROCm {torch.version.hip}"
    return Finding("ok", f"{torch.__version__}, {build}")


def _tmrl(_: Config) -> Finding:
    from importlib.metadata import version

    from app import tmrl_api

    return Finding("ok", f"{version('tmrl')}; {len(tmrl_api.__all__)} of its parts are imported")


def _repair_tmrl() -> str:
    config = os.path.expanduser("~/TmrlData/config/config.json")
    if not os.path.isfile(config):
        return packages.INSTALL
    return f"tmrl reads {config} when it is imported. Move that file elsewhere and look again: this program needs none."


def _device(config: Config) -> Finding:
    import torch

    from app.training.setup import choose_device

    try:
        device = choose_device(config.device)
    except UserError as error:
        return told("missing", error)
    if device == "cpu":
        return _without_gpu(config.device, torch.version.cuda)
    numbers = torch.arange(8, device=device)
    if int((numbers * numbers).sum()) != 140:
        return Finding("broken", f"{device} calculates wrongly", "Update its driver, or use device=cpu.")
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return Finding("ok", f"{device} is a {name} with {decimal(total)} of memory, {decimal(free)} free")


def _without_gpu(asked: str, cuda: str | None) -> Finding:
    if asked == "cpu":
        return Finding("ok", "the CPU, as device=cpu says")
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()):
        return Finding("ok", "the CPU: there is no GPU that torch can use")
    if cuda is None:
        return Finding("note", "the CPU: there is an NVIDIA driver, and torch is built for the CPU alone", _CUDA)
    remedy = "See what nvidia-smi says, and update the driver; or device=cpu, which is slower."
    return Finding("note", f"the CPU: there is an NVIDIA driver, and torch for CUDA {cuda} finds no GPU", remedy)


def _cores(config: Config) -> Finding:
    there, wanted = usable_cores(), config.threads
    found = f"{there} can be used"
    if wanted > there:
        remedy = f"Use threads={there}: no more than that will be used. 0 measures what is faster."
        return Finding("note", f"{found}, and threads = {wanted}", remedy)
    used = wanted or ("one or all, whichever is faster," if there > 1 else "it")
    return Finding("ok", f"{found}, and {used} will be (threads = {wanted})")


def _environment(config: Config) -> Finding:
    from app.envs.factory import make_env, make_spec

    cfg = config.env
    spec = make_spec(cfg)
    shows = f"{cfg.name} shows {spec.float_dim} numbers"
    if spec.image_shape is not None:
        shows += f" and {spec.image_shape[0]} images of {spec.image_shape[1]} × {spec.image_shape[2]}"
    if cfg.real_time:
        return Finding("ok", shows)
    env = make_env(cfg, cfg.train_tracks, config.seed)
    try:
        env.reset()
    finally:
        env.close()
    return Finding("ok", f"{shows}; an episode begins")


def _replay(config: Config) -> Finding:
    from app.envs.factory import EnvError, make_spec
    from app.replay.forecast import ReplayTooLarge, check, forecast
    from app.runs.folder import RunFolder

    try:
        needs = forecast(make_spec(config.env), config.replay.capacity)
        check(needs)
    except EnvError:
        return Finding("missing", "its size depends on the environment, which cannot be made", "Mend that first.")
    except ReplayTooLarge as error:
        return told("missing", error)
    size = decimal(needs.total_bytes)
    found = f"replay.capacity = {config.replay.capacity} takes {size}; {decimal(needs.available_bytes)} of memory"
    run = RunFolder(Path(config.runs_dir) / config.run_name)
    place = folders.nearest(run.replay)
    room = shutil.disk_usage(place).free + folders.occupied(run.replay)
    found += f" and {decimal(room)} of the disk are free"
    if room < needs.total_bytes:
        return Finding("missing", found, "Make room, use a smaller replay.capacity, or runs_dir=/a/larger/disk.")
    return Finding("ok", found)


def _runs_dir(config: Config) -> Finding:
    return folders.writable("runs_dir", Path(config.runs_dir))
