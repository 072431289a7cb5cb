"""Policy that ``app/evaluate.py`` judges: the best one of a run, or that of an exported folder."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.config.run_paths import require_run_or_bundle
from app.config.schema_commands import EvaluateConfig
from app.config.schema_env import EnvConfig
from app.core.console import printable
from app.core.errors import UserError, format_error
from app.envs.env_factory import make_spec
from app.envs.gym_task import import_named_module
from app.evaluation.evaluator import BatchActor
from app.models.actor import DrivingActor
from app.runs.run_folder import RunFolder
from app.training.setup import prepare_process


@dataclass(frozen=True)
class JudgedPolicy:
    """A policy and what is known about it.

    Attributes:
        name: Name of the run or of the exported folder.
        env: Environment that it was trained in.
        actor: The policy.
        folder: Folder that the results are written into, which has the files of a run.
        best_epoch: Epoch of the run that it comes from; None if that is not known.
        claims: Metrics that an exported folder says it reached; empty for a run.
    """

    name: str
    env: EnvConfig
    actor: BatchActor
    folder: RunFolder
    best_epoch: int | None
    claims: dict[str, float]


@contextlib.contextmanager
def open_policy(cfg: EvaluateConfig) -> Iterator[JudgedPolicy]:
    """Prepare this process, and provide the policy that ``run`` or ``bundle`` names for the block.

    Raises:
        UserError: Both are given, or none; or what is given holds no policy that can be judged.
    """
    require_run_or_bundle(cfg.run, cfg.bundle)
    import_named_module(cfg.env_module)
    if cfg.run is not None:
        yield _policy_of_run(cfg, RunFolder(Path(cfg.run)))
        return
    # Imported here: a run needs nothing of it.
    from app.export_bundle.read_bundle import limited_memory, read_bundle

    if cfg.device.startswith("cuda"):
        raise UserError(f"device = {cfg.device}: the policy of a bundle runs on the CPU. Leave device out.")
    prepare_process("cpu", cfg.threads, cfg.seed)
    path = Path(cfg.bundle)
    with limited_memory(), _as_user_errors(path):
        bundle = read_bundle(path)
        beside = path.resolve()  # not into it: the folder is somebody else's
        folder = beside.with_name(f"{beside.name}-evaluation") if cfg.folder is None else Path(cfg.folder)
        yield JudgedPolicy(bundle.name, bundle.env, bundle.actor, RunFolder(folder), None, dict(bundle.reached))


@contextlib.contextmanager
def _as_user_errors(bundle: Path) -> Iterator[None]:
    """Raise every error of the block as a UserError: a strange bundle can cause any of them."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"bundle = {bundle}: cannot be evaluated ({printable(format_error(error))}).") from error


def _policy_of_run(cfg: EvaluateConfig, run: RunFolder) -> JudgedPolicy:
    config = run.best_config()
    device = prepare_process(cfg.device, cfg.threads, cfg.seed)
    spec = make_spec(config.env)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec, device)
    run.load_best(actor)
    folder = run if cfg.folder is None else RunFolder(Path(cfg.folder))
    return JudgedPolicy(run.path.name, config.env, actor, folder, run.read_best_result().get("best_epoch"), {})
