"""The run folder: where things lie, and how they get there whole."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from app.config.schema import Config
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
        parent = Path(config.runs_dir)
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = parent / (config.run_name if number == 1 else f"{config.run_name}-{number}")
            try:
                path.mkdir()  # fails if it exists: two runs started together never share a folder
                break
            except FileExistsError:
                number += 1
        folder = cls(path)
        for file in (folder.checkpoint, folder.best_actor, folder.best_video):
            file.parent.mkdir()
        folder.config.write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False), encoding="utf-8")
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
        """Load the weights of the best policy; nothing in the file can execute."""
        actor.load_state_dict(load_file(self.best_actor))


def _plain(value: Any) -> Any:
    """Tuples become lists: YAML without Python tags."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
