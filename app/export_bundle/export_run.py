"""Export of the best policy of a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from app.config.schema_commands import ExportConfig
from app.config.schema_env import EnvConfig, GymConfig, TrackmaniaConfig
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.envs.gym_task import import_named_module
from app.envs.spec import ObservationSpec
from app.export_bundle.atomic_folder import replacing_folder
from app.export_bundle.bundle import FILES, README, write_bundle
from app.export_bundle.model_card import figures, recorded_episodes, render_card
from app.export_bundle.onnx_export import Policy, require_packages, to_onnx
from app.export_bundle.verify import check_bundle, make_observations
from app.models.actor import DrivingActor
from app.reporting.bootstrap import Precision
from app.runs.run_folder import RunFolder

_GAME = {
    "motion": "speed, gear and rpm as tmrl's plugin sends them",
    "unit": "pixels of the game's window",
    "view": "the game's window, shrunk",
    "delay": "; an action takes effect one step later",
}
_SIMULATOR = {
    "motion": "speed (m/s), gear, rpm",
    "unit": "m",
    "view": "the road from above, 64 m wide, heading up, three quarters of it ahead",
    "delay": "",
}
_CHECKED = 8  # observations


def export(cfg: ExportConfig) -> Path:
    """Write the files, compare them with the actor, and print a report.

    Returns:
        The folder.

    Raises:
        UserError: There is no best policy, a package is missing, the folder holds files of others or cannot be
            written, or the exported actor differs from the original.
    """
    require_packages()
    import_named_module(cfg.env_module)
    run = RunFolder(Path(cfg.run))
    config = run.best_config()
    spec = make_spec(config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
    run.load_best(actor)
    folder = run.path / "export" if cfg.folder is None else Path(cfg.folder)
    obs, description = make_observations(spec, _CHECKED), describe(run, config.env, spec)
    recorded = recorded_episodes(run, description["reached"].get("best_epoch"))
    rows = figures(recorded, description["reached"], Precision(cfg.confidence, cfg.bootstrap))
    card = render_card(description, config, rows, recorded, cfg)
    try:
        with replacing_folder(folder, frozenset(FILES)) as temporary:
            write_bundle(temporary, description, to_onnx(Policy(actor.net), obs), card)
            difference = check_bundle(actor, temporary, obs)
    except OSError as error:
        raise UserError(
            f"folder = {folder}: cannot be written ({error.strerror or error}). Free some space, or name another "
            "folder."
        ) from None
    _print_report(run, folder, difference)
    if recorded is None:
        print_line(
            make_console(),
            f"its card has no intervals: python app/evaluate.py run={run.path} drives other starts, then export again",
            "yellow",
        )
    return folder


def describe(run: RunFolder, env: EnvConfig, spec: ObservationSpec) -> dict[str, Any]:
    """Return the contents of ``actor.json`` that do not depend on the exported files."""
    return {
        "made_by": f"trackmania-droq with torch {torch.__version__}",
        "run": run.path.resolve().name,
        "reached": run.read_best_result(),
        "interface": describe_interface(env),
        "observation": asdict(spec),
        "fingerprint": run.best_fingerprint(),
    }


def describe_interface(env: EnvConfig) -> dict[str, str]:
    """Return a sentence for every part of an observation, for the action, and for the duration of a step."""
    if isinstance(env, GymConfig):
        return {
            "sensors": f"the observation of {env.id}, flattened",
            "action": f"that of {env.id}, each component rescaled from its bounds to [-1, 1]",
        }
    words = _GAME if isinstance(env, TrackmaniaConfig) else _SIMULATOR
    images = {"images": f"grey, {env.image_size} × {env.image_size}, {words['view']}"} if env.images else {}
    return {
        "sensors": f"{words['motion']}, {env.lidar_beams} lidar beams from left to right ({words['unit']})",
        **images,
        "reward": "that of the step, as in training: the last column of the window",
        "action": "gas, brake, steer in [-1, 1]: gas and brake have an effect above 0, steer is right when positive",
        "step": f"{env.step_s:g} s{words['delay']}",
    }


def _print_report(run: RunFolder, folder: Path, difference: float) -> None:
    console = make_console()
    print_line(console, f"exported  {run.path} to {folder}", "green")
    for name in FILES:
        print_line(console, f"  {name:<15} {decimal((folder / name).stat().st_size)}")
    print_line(
        console, f"checked on {_CHECKED} observations: the actions differ from the original's by up to {difference:.1g}"
    )
    print_line(console, f"{folder / README} is its card, and shows how to drive with it")
