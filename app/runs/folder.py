"""The run folder: where things lie, whose they are, and how they get there whole."""

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from app.config.schema import Config
from app.errors import UserError
from app.files import make_folder, replacing, strict_json, sync_folder, write_json
from app.runs.checkpoint import Checkpoints
from app.runs.claim import claim
from app.runs.config_file import write_config
from app.runs.fingerprint import Flat, fingerprint, read_fingerprint, refuse_other
from app.runs.history import unused_time
from app.runs.lock import Lock
from app.runs.manifest import Manifest

_WAYS_OUT = (
    "Add +restart=clean to remove its replay, checkpoints and weights (restart.dry_run=true shows them first), "
    "or keep them and choose another run_name."
)

_REPLAY_WAYS_OUT = (
    "Set it as it was, add '+restart=clean restart.targets=[replay]' to go on with the networks and an empty replay, "
    "or choose another run_name."
)


class RunFolder:
    """Paths below ``runs_dir/run_name``.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config, self.metrics, self.summary = (
            path / name for name in ("config.yaml", "metrics.jsonl", "summary.json")
        )
        self.fingerprint, self.starts = path / "fingerprint.json", path / "starts.jsonl"
        self.curves, self.tensorboard, self.videos = path / "curves.png", path / "tensorboard", path / "videos"
        self.evaluation = path / "evaluation.json"
        self.best_video = self.videos / "best.mp4"
        self.checkpoints, self.replay = Checkpoints(path / "checkpoints"), path / "replay"
        self.replay_fingerprint = self.replay / "fingerprint.json"
        self.best_actor, self.best_model, self.best_result = (
            path / "best" / name for name in ("actor.safetensors", "model.safetensors", "result.json")
        )
        self.log, self.error = path / "log.txt", path / "error.txt"  # of a trial: what a single run shows
        self._lock = Lock(path, "run")

    @classmethod
    def open(cls, config: Config) -> "RunFolder":
        """Make the folder of a run or take the one that is there, and own it until ``close``.

        Raises:
            UserError: it cannot be made, belongs to a running process, or was not made by this program.
        """
        folder = cls(Path(config.runs_dir) / config.run_name)
        claim(folder._lock, "run_name")
        return folder

    def close(self) -> None:
        """Give the folder up; safe to call twice."""
        self._lock.release()

    def __enter__(self) -> "RunFolder":
        """Return the folder, which is owned already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the folder up."""
        self.close()

    def manifest(self) -> Manifest:
        """What this program created here."""
        return Manifest.open(self.path)

    def refuse_other(self, config: Config, replay_files: Sequence[Path], cleared: Collection[str]) -> None:
        """Raise if something that stays here was made under another fingerprint.

        Args:
            config: of this start.
            replay_files: what the replay consists of.
            cleared: kinds that are about to be removed.

        Raises:
            UserError: with every difference.
        """
        stays = self.checkpoints.exist() and "checkpoints" not in cleared
        stays |= self.best_actor.is_file() and "weights" not in cleared
        if stays and self.fingerprint.is_file():
            theirs = read_fingerprint(self.fingerprint, _WAYS_OUT)
            refuse_other(str(self.path), theirs, fingerprint(config), _WAYS_OUT)
        stays = any(path.exists() for path in replay_files) and "replay" not in cleared
        if stays and self.replay_fingerprint.is_file():
            theirs = read_fingerprint(self.replay_fingerprint, _WAYS_OUT)
            refuse_other(str(self.replay), theirs, _replay_fingerprint(config), _REPLAY_WAYS_OUT)

    def list_files(self, replay_files: Sequence[Path]) -> None:
        """Note in the manifest what the run is about to create."""
        manifest = self.manifest()
        manifest.add("checkpoints", *self.checkpoints.paths)
        manifest.add("replay", *replay_files, self.replay_fingerprint)
        manifest.add("weights", self.best_actor, self.best_model, self.best_result)

    def sign(self, config: Config) -> None:
        """Write down what the run is made under, once it is sure that it begins."""
        write_json(self.fingerprint, fingerprint(config))
        write_json(self.replay_fingerprint, _replay_fingerprint(config))
        write_config(self.config, config)

    @contextlib.contextmanager
    def in_words(self) -> Iterator[None]:
        """Turn what the file system refuses into a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{error.filename or self.path}: the run cannot begin here ({error.strerror or error}). Free some "
                "space, put the folder right, or choose another run_name."
            ) from None

    def note_start(self, updates: int, changed: Sequence[str]) -> None:
        """Append one line about this start: when, from which update on, with which changed keys."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "updates": updates, "changed": changed}
        with self.starts.open("a", encoding="utf-8") as file:
            file.write(strict_json(line) + "\n")

    def put_records_aside(self) -> Path | None:
        """Move what an earlier life of this folder recorded into ``history``, so that a new run begins a new record."""
        records = (
            self.metrics,
            self.summary,
            self.curves,
            self.tensorboard,
            self.videos,
            self.evaluation,
            self.config,
            self.best_actor.parent,
        )
        found = [path for path in records if path.exists()]
        if not found:
            return None
        aside = self.path / "history" / unused_time(self.path)
        make_folder(aside)
        for path in found:
            os.replace(path, aside / path.name)
        sync_folder(aside)
        sync_folder(self.path)
        return aside

    def save_best(self, actor: nn.Module, model: nn.Module, result: Mapping[str, Any], made_under: Flat) -> None:
        """Keep the weights of the best policy and what it reached; the file of the actor holds both and comes last."""
        facts = {"result": strict_json(result), "fingerprint": strict_json(made_under)}
        for path, module, metadata in ((self.best_model, model, {}), (self.best_actor, actor, facts)):
            with replacing(path) as temporary:
                save_file({name: part.contiguous() for name, part in module.state_dict().items()}, temporary, metadata)
        write_json(self.best_result, result)

    def load_best(self, actor: nn.Module) -> None:
        """Load the weights of the best policy; nothing in the file can execute.

        Raises:
            UserError: the file is damaged or holds another network.
        """
        try:
            actor.load_state_dict(load_weights(self.best_actor))
        except RuntimeError as error:
            raise UserError(f"{self.best_actor}: holds another network: {str(error).splitlines()[0]}") from None

    def best_so_far(self) -> dict[str, Any]:
        """Return what the best policy kept here has reached; empty if there is none."""
        return _metadata(self.best_actor, "result") if self.best_actor.is_file() else {}

    def best_fingerprint(self) -> Flat:
        """Return the fingerprint under which the best policy was made."""
        return _metadata(self.best_actor, "fingerprint")


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: it is not there or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from None


def _metadata(path: Path, key: str) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[key])
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    except KeyError:
        raise UserError(
            f"{path}: does not say its {key}: this program did not make it, or an older version did."
        ) from None


def _replay_fingerprint(config: Config) -> Flat:
    """The run's, and the size of the ring: it decides where a row stands."""
    return {**fingerprint(config), "replay.capacity": config.replay.capacity}
