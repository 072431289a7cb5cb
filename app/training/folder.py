"""The run folder: where things lie, and how they get there whole."""

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from app.config.schema import Config
from app.errors import UserError
from app.models.actor import DrivingActor
from app.reporting.files import replacing, strict_json


class RunFolder:
    """Paths below ``runs_dir/run_name``.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config, self.metrics, self.summary = (
            path / "config.yaml",
            path / "metrics.jsonl",
            path / "summary.json",
        )
        self.curves = path / "curves.png"
        self.checkpoint = path / "checkpoints" / "last.pt"
        self.best_actor, self.best_result = path / "best" / "actor.safetensors", path / "best" / "result.json"
        self.best_video = path / "videos" / "best.mp4"

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make a new folder; a name that is taken gets the next free number, so nothing is overwritten."""
        try:
            folder = cls(_new_folder(Path(config.runs_dir), config.run_name))
            folder.config.write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"runs_dir = {config.runs_dir}: no run folder can be made there ({error.strerror}). "
                "Name a folder that can be written, such as runs_dir=runs."
            ) from None
        return folder

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint in one step; tensors and plain values only."""
        with replacing(self.checkpoint) as temporary:
            torch.save(dict(state), temporary)

    def save_best(self, actor: DrivingActor, result: Mapping[str, Any]) -> None:
        """Keep the weights of the best policy and what it reached."""
        with replacing(self.best_actor) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in actor.state_dict().items()}, temporary)
        with replacing(self.best_result) as temporary:
            temporary.write_text(strict_json(result, indent=2) + "\n", encoding="utf-8")

    def load_best(self, actor: DrivingActor) -> None:
        """Load the weights of the best policy; nothing in the file can execute.

        Raises:
            UserError: the file is damaged or holds another network.
        """
        try:
            actor.load_state_dict(load_file(self.best_actor))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise UserError(f"{self.best_actor}: cannot be loaded: {str(error).splitlines()[0]}") from None


def _new_folder(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()  # fails if it exists: two runs started together never share a folder
            return path


def _plain(value: Any) -> Any:
    """Tuples become lists: YAML without Python tags."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
