"""Run folder: paths, ownership, atomic writes.

torch, which takes seconds to import, is imported where weights are read or written: a list of runs needs only paths.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from app.config.run_paths import require_run
from app.config.schema import Config
from app.core.atomic_files import append_line, atomic_write, make_folder, strict_json, sync_folder, write_json
from app.core.errors import UserError
from app.core.json_data import parse_json
from app.runs.checkpoint import Checkpoints
from app.runs.config_file import read_config, write_config
from app.runs.fingerprint import (
    FlatDict,
    fingerprint,
    read_fingerprint,
    recorded_fingerprint,
    require_same_fingerprint,
)
from app.runs.lock import Lock
from app.runs.manifest import Manifest, acquire_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

_HINT = (
    "Add +restart=clean to remove its replay, checkpoints and weights (restart.dry_run=true shows them first), "
    "or keep them and choose another run_name."
)
_REPLAY_HINT = (
    "Set it as it was, add '+restart=clean restart.targets=[replay]' to continue with the networks and an empty "
    "replay, or choose another run_name."
)


_ACTOR_PREFIX = "net."  # of the weights of an actor, which are those of the networks without it


class RunFolder:
    """Folder of one run, ``runs_dir/run_name``.

    Args:
        path: The folder; nothing is made.

    Attributes:
        path: The folder.
        config: Configuration of the last start.
        metrics: One line of JSON for every epoch.
        summary: Result of the run.
        fingerprint: Settings that checkpoints and weights depend on.
        starts: One line of JSON for every start.
        curves: Learning curves as a picture.
        report: Page about the run, written after every epoch.
        tensorboard: Folder of TensorBoard's events.
        wandb: Folder of Weights & Biases, with the identifier of the run there.
        videos: Folder of the videos.
        best_video: Video of the best policy.
        evaluation: Result of ``app/evaluate.py``.
        competition: Result of ``app/evaluate.py protocol=tmrl``.
        post_mortem: Page of ``app/postmortem.py``.
        viewer: Page of ``app/replay_viewer.py``.
        checkpoints: The two checkpoints.
        replay: Folder of the replay's rows.
        replay_fingerprint: Settings that the rows depend on.
        best_actor: Weights of the best policy's actor, with its result and fingerprint.
        best_model: Weights of all networks at that time.
        best_result: Metrics of the best policy.
        log: Console output of a trial.
        error: Traceback of a trial that failed.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config, self.metrics, self.summary = (
            path / name for name in ("config.yaml", "metrics.jsonl", "summary.json")
        )
        self.fingerprint, self.starts = path / "fingerprint.json", path / "starts.jsonl"
        self.curves, self.tensorboard, self.videos = path / "curves.png", path / "tensorboard", path / "videos"
        self.best_video, self.evaluation = self.videos / "best.mp4", path / "evaluation.json"
        self.competition, self.wandb = path / "competition.json", path / "wandb"
        self.report = path / "report.html"
        self.post_mortem, self.viewer = path / "postmortem.html", path / "viewer.html"
        self.checkpoints, self.replay = Checkpoints(path / "checkpoints"), path / "replay"
        self.replay_fingerprint = self.replay / "fingerprint.json"
        self.best_actor, self.best_model, self.best_result = (
            path / "best" / name for name in ("actor.safetensors", "model.safetensors", "result.json")
        )
        self.log, self.error = path / "log.txt", path / "error.txt"
        self._lock = Lock(path, "run")

    @classmethod
    def open(cls, config: Config) -> "RunFolder":
        """Make the folder of a run, or take the one that exists, and own it until ``close``.

        Raises:
            UserError: The folder cannot be made, is in use, or was not made by this program.
        """
        folder = cls(Path(config.runs_dir) / config.run_name)
        acquire_folder(folder._lock, "run_name")
        return folder

    def close(self) -> None:
        """Give the folder up; a second call does nothing."""
        self._lock.release()

    def __enter__(self) -> "RunFolder":
        """Return the folder, which is owned already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the folder up."""
        self.close()

    @contextlib.contextmanager
    def as_user_errors(self) -> Iterator[None]:
        """Raise an OSError of the block as a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{error.filename or self.path}: the run cannot start here ({error.strerror or error}). Free some "
                "space, repair the folder, or choose another run_name."
            ) from None

    def manifest(self) -> Manifest:
        """Return the list of the files that this program made here."""
        return Manifest.open(self.path)

    def add_to_manifest(self, replay_files: Sequence[Path]) -> None:
        """List the files that the run is about to make.

        Args:
            replay_files: Files of the replay.
        """
        manifest = self.manifest()
        manifest.add("checkpoints", *self.checkpoints.paths)
        manifest.add("replay", *replay_files, self.replay_fingerprint)
        manifest.add("weights", self.best_actor, self.best_model, self.best_result)

    def check_fingerprints(self, config: Config, replay_files: Sequence[Path], cleared: Collection[str]) -> None:
        """Raise if something that stays in the folder was made under another fingerprint.

        Args:
            config: Configuration of this start.
            replay_files: Files of the replay.
            cleared: Kinds of files that are about to be removed.

        Raises:
            UserError: With every difference.
        """
        kept = self.checkpoints.exist() and "checkpoints" not in cleared
        kept |= self.best_actor.is_file() and "weights" not in cleared
        if kept and self.fingerprint.is_file():
            recorded = read_fingerprint(self.fingerprint, _HINT)
            require_same_fingerprint(str(self.path), recorded, fingerprint(config), _HINT)
        kept = any(path.exists() for path in replay_files) and "replay" not in cleared
        if kept and self.replay_fingerprint.is_file():
            recorded = read_fingerprint(self.replay_fingerprint, _HINT)
            require_same_fingerprint(str(self.replay), recorded, _replay_fingerprint(config), _REPLAY_HINT)

    def write_fingerprint(self, config: Config) -> None:
        """Write the configuration of the run and its fingerprints, once it is certain that the run starts."""
        write_json(self.fingerprint, fingerprint(config))
        write_json(self.replay_fingerprint, _replay_fingerprint(config))
        write_config(self.config, config)

    def append_start(self, updates: int, changed: Sequence[str], environment: Mapping[str, str]) -> None:
        """Append a line about this start to ``starts.jsonl``.

        Args:
            updates: Number of updates that were done before.
            changed: Settings that differ from those of the start before.
            environment: What it runs on: device, system, versions.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"time": now, "updates": updates, "changed": changed, "environment": environment}
        append_line(self.starts, strict_json(line))

    def move_records_to_history(self) -> Path | None:
        """Move the records of an earlier run in this folder to ``history/<time>``, so that a new run begins its own.

        Returns:
            The folder that they were moved to; None if there were none.
        """
        records = (
            self.metrics,
            self.summary,
            self.curves,
            self.tensorboard,
            self.wandb,
            self.videos,
            self.evaluation,
            self.competition,
            self.report,
            self.post_mortem,
            self.viewer,
            self.config,
            self.best_actor.parent,
        )
        found = [path for path in records if path.exists()]
        if not found:
            return None
        target = self.path / "history" / unused_timestamp(self.path)
        make_folder(target)
        for path in found:
            os.replace(path, target / path.name)
        for events in (target / self.tensorboard.name).glob("*tfevents*"):  # TensorBoard would show another run
            os.replace(events, events.with_name(events.name.replace("tfevents", "earlier")))
        sync_folder(target)
        sync_folder(self.path)
        return target

    def save_best(
        self, actor: "nn.Module", model: "nn.Module", result: Mapping[str, Any], made_under: FlatDict
    ) -> None:
        """Save the weights of the best policy and its result.

        The file of the actor holds the result and the fingerprint, too, and is written last: it decides which policy is
        the best one, and a run that is killed before writes all of them again.

        Args:
            actor: Actor of the policy.
            model: All networks at that time.
            result: Metrics of the policy.
            made_under: Fingerprint of the run.
        """
        from safetensors.torch import save_file

        metadata = {"result": strict_json(result), "fingerprint": strict_json(made_under)}
        write_json(self.best_result, result)
        for path, module, content in ((self.best_model, model, {}), (self.best_actor, actor, metadata)):
            with atomic_write(path) as temporary:
                save_file(
                    {name: part.cpu().contiguous() for name, part in module.state_dict().items()}, temporary, content
                )

    def load_best(self, actor: "nn.Module") -> None:
        """Load the weights of the best policy; nothing in the file can be executed.

        Args:
            actor: Receives the weights.

        Raises:
            UserError: The file is damaged or holds another network.
        """
        try:
            actor.load_state_dict(load_weights(self.best_actor))
        except RuntimeError as error:
            raise UserError(f"{self.best_actor}: holds another network: {str(error).splitlines()[0]}") from None

    def best_networks(self) -> "dict[str, Tensor]":
        """Return the weights of all networks of the best policy.

        Raises:
            UserError: A file is missing or damaged, or the two are of different policies, because the run was killed
                after it had written the first of them.
        """
        import torch

        networks, actor = load_weights(self.best_model), load_weights(self.best_actor)
        parts = ((part, networks.get(name.removeprefix(_ACTOR_PREFIX))) for name, part in actor.items())
        if not all(other is None or torch.equal(part, other) for part, other in parts):
            raise UserError(
                f"{self.best_model}: belongs to another policy than {self.best_actor.name}: the run was stopped while "
                "it saved its best policy. Continue that run to the end of its epoch first."
            )
        return networks

    def best_config(self) -> Config:
        """Return the configuration under which the best policy was made.

        Raises:
            UserError: The folder holds no run, one without a best policy, or one that this version cannot read.
        """
        require_run("run", str(self.path))
        if not self.best_actor.is_file():
            raise UserError(
                f"run = {self.path}: holds a run without a best policy yet ({self.best_actor} is missing). Train it to "
                "the end of its first epoch."
            )
        return read_config(self.config)

    def best_fingerprint(self) -> FlatDict:
        """Return the fingerprint under which the best policy was made.

        Raises:
            UserError: The file of the best policy is damaged, or this program did not make it.
        """
        return recorded_fingerprint(_read_metadata(self.best_actor, "fingerprint"))

    def read_best_result(self) -> dict[str, Any]:
        """Return the metrics of the best policy; empty if there is none yet.

        Raises:
            UserError: The file of the best policy is damaged, or this program did not make it.
        """
        return _read_metadata(self.best_actor, "result") if self.best_actor.is_file() else {}


def load_weights(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file.

    Raises:
        UserError: The file is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from None


def unused_timestamp(root: Path) -> str:
    """Return the time (UTC) as a folder name that is still unused in ``history/`` and ``archive/`` of a root folder.

    Such as "20261122T223015Z", and "20261122T223015Z-2" in the same second. The caller holds the lock of the root.
    """
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    names = (now if number == 1 else f"{now}-{number}" for number in count(1))
    return next(
        name for name in names if not any(os.path.lexists(root / place / name) for place in ("history", "archive"))
    )


def _read_metadata(path: Path, key: str) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            content = parse_json((file.metadata() or {})[key])
        if not isinstance(content, dict):
            raise ValueError(f"its {key} is no mapping")
        return content
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    except KeyError:
        raise UserError(f"{path}: has no {key}: this program did not make it, or an older version did.") from None


def _replay_fingerprint(config: Config) -> FlatDict:
    """Return the fingerprint of the replay: that of the run, and the size of the ring, which decides where a row is."""
    return {**fingerprint(config), "replay.capacity": config.replay.capacity}
