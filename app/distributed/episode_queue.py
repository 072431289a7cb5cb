"""Received episodes on their way into the replay, a few steps at a time."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from app.core.tmrl_api import Buffer
from app.distributed.messages import EpisodeMessage, decode_message, encode_message, unpack_episode
from app.replay.row_format import RowFormat, StoredStep
from app.training.rollout import MAX_STEPS_PER_BUFFER

RECEIVED = "received_episodes"  # key of a queue in the state of a local interface
_OVERHEAD = 1000  # bytes that an episode takes beyond its rows and frames


class EpisodeQueue:
    """Episodes that are not completely in the replay, in the order of their arrival.

    Args:
        row_format: Row format of the run's observation.

    Attributes:
        size: Bytes of the episodes.
    """

    def __init__(self, row_format: RowFormat):
        self._row_format = row_format
        self._episodes: deque[EpisodeMessage] = deque()
        self._rows: deque[StoredStep] = deque()  # steps of the first episode that are not in the replay
        self._last_episode = (0.0, 0)  # return and steps of the newest one
        self.size = 0

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._episodes)

    @property
    def steps(self) -> int:
        """Environment steps of all episodes, those of the first one that are in the replay included."""
        return sum(episode.row_count - 1 for episode in self._episodes)

    def append(self, episode: EpisodeMessage) -> None:
        """Add an episode that has been checked."""
        self._episodes.append(episode)
        self.size += _size_of(episode)

    def fits(self, episode: EpisodeMessage, limit: int) -> bool:
        """Return whether an episode can be added within a limit in bytes; a single one always can."""
        return not self._episodes or self.size + _size_of(episode) <= limit

    def take(self) -> Buffer:
        """Return and remove the next steps, at most ``MAX_STEPS_PER_BUFFER`` of one episode, its reset included."""
        if not self._rows and self._episodes:
            episode = self._episodes[0]
            self._rows.extend(unpack_episode(episode, self._row_format))
            self._last_episode = episode.episode_return, episode.row_count - 1
        buffer = Buffer()
        buffer.memory = [self._rows.popleft() for _ in range(min(MAX_STEPS_PER_BUFFER, len(self._rows)))]
        buffer.stat_train_return, buffer.stat_train_steps = self._last_episode
        if buffer.memory and not self._rows:
            self.size -= _size_of(self._episodes.popleft())
        return buffer

    def clear(self) -> None:
        """Drop everything."""
        self._rows.clear()
        self._episodes.clear()
        self.size = 0

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain numbers."""
        pending = [torch.from_numpy(np.frombuffer(encode_message(one), np.uint8).copy()) for one in self._episodes]
        return {"pending": pending, "rows_left": len(self._rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            MessageError: Another version of this program wrote it; the queue is empty then.
        """
        self.clear()
        episodes = [decode_message(packed.numpy().tobytes()) for packed in state["pending"]]
        if left := state["rows_left"]:
            self._rows.extend(unpack_episode(episodes[0], self._row_format)[-left:])
            self._last_episode = episodes[0].episode_return, episodes[0].row_count - 1
        for episode in episodes:
            self.append(episode)


def dropped_episodes(state: Mapping[str, Any]) -> str:
    """Return the message for a state that cannot be read."""
    return (
        "The checkpoint was written by another version of this program. Episodes in it that had not reached "
        f"the replay yet ({len(state['pending'])}) cannot be read and are dropped."
    )


def _size_of(episode: EpisodeMessage) -> int:
    return len(episode.rows) + len(episode.frames) + _OVERHEAD
