"""Exports the best policy of a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal
from safetensors import SafetensorError

from app.config.schema import Config, ExportConfig
from app.envs.factory import make_spec
from app.envs.spec import ObservationSpec
from app.errors import UserError
from app.export_bundle.bundle import FILES, ONNX, write_bundle
from app.export_bundle.check import check_bundle, check_onnx, make_observations
from app.export_bundle.driver import FORMAT
from app.export_bundle.meaning import meaning
from app.export_bundle.onnx_file import refuse_without_packages, write_onnx
from app.export_bundle.place import replacing_folder
from app.export_bundle.program import Policy, record
from app.models.actor import DrivingActor
from app.reporting.formatting import make_console, tell
from app.runs.best import config_of_best
from app.runs.folder import RunFolder

_CHECKED = 8  # observations


def export(cfg: ExportConfig) -> Path:
    """Write the bundle and the ONNX file, check both against the actor, and say what was written.

    Returns:
        The folder.

    Raises:
        UserError: there is no best policy, a package is missing, the folder is another's or cannot be written, or the
            files do not say the same as the actor.
    """
    run = RunFolder(Path(cfg.run))
    config = config_of_best(run)
    if cfg.onnx:
        refuse_without_packages()
    spec = make_spec(config.env)
    actor = DrivingActor(spec.space(), spec.action_space(), config, spec)
    run.load_best(actor)
    folder = run.path / "export" if cfg.folder is None else Path(cfg.folder)
    console = make_console()
    try:
        with replacing_folder(folder, frozenset(FILES)) as temporary:
            differences = _write(temporary, run, config, spec, actor, cfg.onnx)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"folder = {folder}: cannot be written ({reason}). Free some space, or name another folder."
        ) from None
    tell(console, f"exported  {run.path} to {folder}", "green")
    for name in FILES:
        if (folder / name).is_file():
            tell(console, f"  {name:<18} {decimal((folder / name).stat().st_size)}")
    for what, difference in differences.items():
        tell(
            console,
            f"{what} gives what the actor gives, on {_CHECKED} observations: difference at most {difference:.1g}",
        )
    tell(console, f"{folder / 'README.md'} shows how to drive with it")
    return folder


def _write(
    folder: Path, run: RunFolder, config: Config, spec: ObservationSpec, actor: DrivingActor, onnx: bool
) -> dict[str, float]:
    """Write every file; return the largest difference from the actor of each way to drive."""
    policy, obs = Policy(actor.net), make_observations(spec, _CHECKED)
    program, tensors = record(policy, {name: part[:1] for name, part in obs.items()})
    write_bundle(folder, _description(run, config, spec, program), tensors, onnx)
    differences = {"the bundle": check_bundle(actor, policy, folder, obs)}
    if onnx:
        needed = {name: part for name, part in obs.items() if name in program["inputs"]}
        write_onnx(policy, needed, folder / ONNX)
        differences["the ONNX file"] = check_onnx(policy, folder / ONNX, obs)
    return differences


def _description(run: RunFolder, config: Config, spec: ObservationSpec, program: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "made_by": f"trackmania-droq with torch {torch.__version__}",
        "run": run.path.resolve().name,
        "reached": run.best_so_far(),
        "meaning": meaning(config.env),
        "observation": asdict(spec),
        "fingerprint": run.best_fingerprint(),
        "program": program,
    }
