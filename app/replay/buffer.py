"""Replay buffer: a ring of rows that is sampled in batches."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.config.schema import ReplayConfig
from app.core.tmrl_api import Buffer, TorchMemory
from app.envs.spec import ObservationSpec
from app.replay import indexing
from app.replay.batch import Batch
from app.replay.demonstrations import Demonstrations
from app.replay.ring import Ring
from app.replay.row_format import MAX_AGE, RowFormat, array_kinds
from app.replay.storage import Storage
from app.replay.transfer import make_transfer, move

TMRL_STATS = ("stat_test_return", "stat_train_return", "stat_test_steps", "stat_train_steps")  # attributes of tmrl's


class ReplayMemory(TorchMemory):
    """Ring of steps from which observations are rebuilt when they are sampled.

    A row holds one step: its sensors, the action that led to it, the reward that came with it, one frame, its
    age (steps since the reset) and whether it ended the episode. Image histories, action histories and
    context windows are gathered from adjacent rows, never across the border of an episode, and equal those of
    the environment bit for bit. A transition is a row i with age >= 1: action and reward of row i, and the
    observation of row i-1 in which the action was taken.

    To save, call ``state_dict``, which makes the rows durable and returns the rest. When a checkpoint with it is
    written, ``pin`` the states of all checkpoints that exist. To restore, check ``find_damage`` and call
    ``load_state_dict``.

    Args:
        spec: Format of the observations.
        cfg: The ``replay`` group.
        n_step: Number of rewards summed before the bootstrap.
        gamma: Discount per step.
        horizons: Numbers of steps ahead whose rewards a batch contains; may be empty.
        nb_steps: Batches per iteration over this memory, as tmrl's training loop asks for them.
        device: Device of the batches.
        seed: Seed of the sampling.
        storage: Provides the arrays. They may have old contents; ``load_state_dict`` tells which of them are valid.
        slack: Rows beyond the capacity, for the steps after a checkpoint (``ring.slack_rows``); 0 without checkpoints.

    Attributes:
        rng: Generator that draws the batches.
        env_steps: Number of environment steps ever appended, resets not counted.
    """

    def __init__(
        self,
        spec: ObservationSpec,
        cfg: ReplayConfig,
        n_step: int,
        gamma: float,
        horizons: Sequence[int],
        nb_steps: int,
        device: torch.device | str,
        seed: int,
        storage: Storage,
        slack: int = 0,
    ) -> None:
        self._spec, self._n_step, self._gamma, self._horizons = spec, n_step, gamma, tuple(horizons)
        self._format = RowFormat.of(spec)
        self._ring = Ring(array_kinds(spec, cfg.capacity + slack), storage, cfg.capacity, slack)
        self._rows, self._age, self._ends = (self._ring.arrays[name] for name in ("rows", "age", "ends"))
        self._frames = self._ring.arrays.get("frames")
        image_history = spec.image_shape[0] if spec.image_shape is not None else 1
        self._recent_rows, self._recent_share = cfg.recent_rows, cfg.recent_share
        self._history = max(spec.window, spec.action_history, 1)  # rows of an observation, without its frames
        self._lookback = max(self._history, image_history) - 1  # rows before an observation's own
        self._lookahead = max(n_step, *self._horizons, 1)  # rows from the transition's own
        self.env_steps = 0
        self._reward_range = math.inf, -math.inf  # lowest and highest ever appended
        self.rng = np.random.default_rng(seed)
        # With a real path tmrl would unpickle any data.pkl in the working directory.
        super().__init__(device, nb_steps, memory_size=cfg.capacity, batch_size=cfg.batch_size, dataset_path=os.devnull)
        self._transfer = make_transfer(device)

    def __len__(self) -> int:
        """Return the number of rows that can be sampled from: steps and resets."""
        return self._ring.size

    @property
    def appended(self) -> int:
        """Number of rows ever appended."""
        return self._ring.appended

    @property
    def free_rows(self) -> int:
        """Number of rows that can be appended before a pinned one would be overwritten.

        A little less than the slack once the ring is full; ``ring.UNLIMITED`` while no state is pinned.
        """
        return self._ring.free_rows

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._ring.arrays.values())

    def append_buffer(self, buffer: Buffer) -> None:
        """Append the steps of a worker's buffer; an episode may continue in the next buffer.

        Args:
            buffer: Steps as ``SampleCompressor`` makes them; an action of None begins an episode.

        Raises:
            ValueError: A step follows no row of its own episode, or the steps are more than ``free_rows``.
            UserError: The storage cannot take them. Nothing is appended in either case.
        """
        steps = buffer.memory
        if not steps:
            return
        resets = np.array([step[0] is None for step in steps])
        self._append(self._format.encode(steps), resets)
        self.env_steps += int(np.count_nonzero(~resets))

    def append_demonstrations(self, demonstrations: Demonstrations) -> None:
        """Append whole episodes that somebody else has driven; they count as no environment step.

        Args:
            demonstrations: The episodes.

        Raises:
            UserError: The storage cannot take them; nothing is appended.
        """
        self._append(dict(demonstrations.arrays), demonstrations.resets)

    def reward_range(self) -> dict[str, float]:
        """Return the lowest and the highest reward ever appended; empty if there is none."""
        low, high = self._reward_range
        return {"reward_min": low, "reward_max": high} if low <= high else {}

    def sample(self) -> Batch:
        """Draw a batch with replacement from all transitions whose observations can be rebuilt.

        Transitions are drawn uniformly, ``replay.recent_share`` of the batch from the newest rows alone. On a GPU the
        batch is valid until the next one is drawn.

        Raises:
            RuntimeError: There is no such transition.
        """
        return self._transfer(self._gather(self._draw()))

    def sample_apart(self, count: int, seed: Sequence[int]) -> Batch | None:
        """Draw transitions uniformly with replacement, without the random generator that training draws from.

        Args:
            count: Number of transitions.
            seed: Seed of the draws.

        Returns:
            The transitions; None if there is none whose observations can be rebuilt.
        """
        if not self._is_complete(np.arange(len(self))).any():
            return None
        return move(self._gather(self._draw_from(0, count, np.random.default_rng(seed))), self.device)

    def finished_episodes(self, since: int, limit: int) -> list[Batch]:
        """Return the newest episodes that were terminated or truncated, as the batches of their transitions in order.

        Args:
            since: Oldest row that may end an episode, counted from the first ever appended.
            limit: Largest number of transitions together. The oldest episode lacks its first ones where it is too long.

        Returns:
            Batches, the oldest episode first. Their n-step sums end where the episode ends.
        """
        rows = np.arange(max(0, since - self._ring.oldest), len(self))
        ends = rows[self._ends.take(self._positions(rows), axis=0, mode="wrap").any(axis=1)]
        episodes: list[Batch] = []
        for end in ends[::-1]:
            age = int(self._age.take(self._positions(end), mode="wrap"))
            steps = np.arange(max(0, end + 1 - min(age, limit)), end + 1)
            steps = steps[self._is_complete(steps)]
            if len(steps) == 0:
                break
            episodes.append(move(self._gather(steps), self.device))
            limit -= len(steps)
        return episodes[::-1]

    def get_transition(self, item: int) -> tuple[Any, ...]:
        """Return one transition as tmrl's memories do; training uses ``sample``.

        Args:
            item: Index of the row; 0 is the oldest.

        Returns:
            Observation, action, reward, next observation, terminated, truncated and an empty info, as arrays.
        """
        if not 0 <= item < len(self) or not self._is_complete(np.array([item]))[0]:
            raise IndexError(f"row {item} of {len(self)} is not a transition that can be rebuilt")
        batch = self._gather(np.array([item]))
        obs, next_obs = (
            {name: part[0].numpy() for name, part in parts.items()} for parts in (batch.obs, batch.next_obs)
        )
        action, reward = batch.action[0].numpy(), batch.reward[0].numpy()
        return obs, action, reward, next_obs, bool(batch.terminated[0]), bool(batch.truncated[0]), {}

    def pin(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows in place that some states need, and no others.

        Args:
            states: Results of ``state_dict`` in all checkpoints that exist; none unpins all rows.
        """
        self._ring.pin(states)

    def flush(self) -> None:
        """Make all rows durable and compute their checksums; takes time in proportion to the new rows."""
        self._ring.flush()

    def state_dict(self) -> dict[str, Any]:
        """Flush, and return all that is not in the arrays, as plain numbers, strings, lists and dicts."""
        # NumPy scalars are no plain data: ``item`` converts them.
        stats = {name: np.asarray(getattr(self, name)).item() for name in TMRL_STATS}
        return {
            **self._ring.state_dict(),
            "env_steps": self.env_steps,
            "rewards": list(self._reward_range),
            "rng": self.rng.bit_generator.state,
            "stats": stats,
        }

    def find_damage(self, state: Mapping[str, Any]) -> str | None:
        """Read all rows that a state needs, which takes a while.

        Args:
            state: Result of ``state_dict``.

        Returns:
            A sentence that names the first damaged file or rows, or None if the state can be loaded.
        """
        return self._ring.find_damage(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the arrays must contain what they contained then.

        Raises:
            ValueError: The state is of a replay of another capacity.
        """
        self._ring.load_state_dict(state)
        self.load_counters(state)

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Restore the counters and the random generator of a state whose rows were cleared."""
        self.env_steps = state["env_steps"]
        low, high = state["rewards"]
        self._reward_range = low, high
        self.rng.bit_generator.state = state["rng"]
        for name in TMRL_STATS:
            setattr(self, name, state["stats"][name])

    def _append(self, values: dict[str, np.ndarray], resets: np.ndarray) -> None:
        """Append rows in the form of ``RowFormat.encode``, of which ``resets`` (N,) begin an episode."""
        newest = self._ring.head - 1
        is_open = len(self) > 0 and not self._ends[newest].any()  # the newest episode
        follows_open = np.append(is_open, ~values["ends"].any(axis=1)[:-1])
        if not (resets | follows_open).all():
            raise ValueError("the stream of steps has a gap: a step follows neither a reset nor an open step")
        ages = indexing.ages_of_rows(resets, int(self._age[newest]) if len(self) else 0)
        values["age"] = np.minimum(ages, MAX_AGE)
        self._ring.append(values)
        rewards = values["rows"][~resets, self._format.reward]
        low, high = self._reward_range
        self._reward_range = float(rewards.min(initial=low)), float(rewards.max(initial=high))

    def _draw(self) -> np.ndarray:
        """Draw the row indices of a batch (B,); 0 is the oldest."""
        if len(self) == 0:
            raise RuntimeError("the replay is empty: nothing can be sampled")
        recent = round(self._recent_share * self.batch_size)
        parts = {0: self.batch_size - recent}
        newest = max(0, len(self) - self._recent_rows)
        parts[newest] = parts.get(newest, 0) + recent
        return np.concatenate([self._draw_from(oldest, count, self.rng) for oldest, count in parts.items() if count])

    def _draw_from(self, oldest: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw ``count`` row indices uniformly from ``oldest`` on; rows that cannot be rebuilt are drawn again."""
        accepted, missing = [], count
        while missing > 0:
            indices = rng.integers(oldest, len(self), size=missing + missing // 8 + 8)
            indices = indices[self._is_complete(indices)][:missing]
            if len(indices) == 0 and not self._is_complete(np.arange(oldest, len(self))).any():
                if oldest == 0:
                    raise RuntimeError(f"none of the replay's {len(self)} rows is a transition that can be rebuilt")
                oldest = 0
            accepted.append(indices)
            missing -= len(indices)
        return np.concatenate(accepted)

    def _is_complete(self, indices: np.ndarray) -> np.ndarray:
        age = self._age.take(self._positions(indices), mode="wrap").astype(np.int64)
        return indexing.is_complete(indices, age, self._lookback)

    def _positions(self, indices: np.ndarray) -> np.ndarray:
        """Return positions in the arrays; negative ones need ``mode="wrap"``, which adds the length of the array."""
        return indices + (self._ring.head - len(self))

    def _gather(self, indices: np.ndarray) -> Batch:
        """Rebuild the transitions of some rows (B,), 0 the oldest, in main memory; each must be complete."""
        positions, history = self._positions(indices), self._history
        ages = self._age.take(positions[:, None] + np.arange(self._lookahead), mode="wrap").astype(np.int64)
        obs_age = ages[:, 0] - 1
        # Adjacent rows: the history of obs, the transition's own row, and those after it.
        adjacent = self._rows.take(positions[:, None] + np.arange(-history, self._lookahead), axis=0, mode="wrap")
        adjacent[:, :history][indexing.before_reset(obs_age, history)] = 0

        exists = indexing.same_episode(ages, len(self) - 1 - indices)
        rewards = adjacent[:, history:, self._format.reward]
        n = self._n_step
        steps, reward, discount = indexing.n_step_return(rewards[:, :n], exists[:, :n], self._gamma)
        ends = self._ends.take(positions + steps - 1, axis=0, mode="wrap").astype(np.float32)
        future_rewards, future_mask = indexing.rewards_at_horizons(rewards, exists, self._horizons)

        images, next_images = self._images(positions, obs_age, steps)
        action = adjacent[:, history, self._format.action]
        return Batch(
            obs=self._observation(adjacent[:, :history], images),
            action=torch.from_numpy(action),
            reward=torch.from_numpy(reward),
            next_obs=self._observation(indexing.shift_histories(adjacent, steps, history), next_images),
            terminated=torch.from_numpy(ends[:, 0]),
            truncated=torch.from_numpy(ends[:, 1]),
            discount=torch.from_numpy(discount),
            future_rewards=torch.from_numpy(future_rewards),
            future_mask=torch.from_numpy(future_mask),
        )

    def _observation(self, history: np.ndarray, images: Tensor | None) -> dict[str, Tensor]:
        """Return the observations of histories (B, rows, width) and images (B, frames, H, W), oldest first."""
        spec, row_format = self._spec, self._format
        sensors = history[:, -1, list(row_format.sensor_columns)]
        actions = history[:, self._history - spec.action_history :, row_format.action].reshape(len(history), -1)
        observation = {"floats": torch.from_numpy(np.concatenate([sensors, actions], axis=1))}
        if images is not None:
            observation["images"] = images
        if spec.window:
            observation["window"] = torch.from_numpy(history[:, self._history - spec.window :, row_format.window])
        return observation

    def _images(
        self, positions: np.ndarray, obs_age: np.ndarray, steps: np.ndarray
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return the image histories of obs and next_obs (B, frames, H, W), uint8."""
        if self._frames is None:
            return None, None
        history = self._spec.image_shape[0]
        if self._n_step == 1:  # all frames but one are shared: gather them once
            shared = self._stack_frames(positions, obs_age + 1, history + 1)
            return shared[:, :-1], shared[:, 1:]
        images = self._stack_frames(positions - 1, obs_age, history)
        return images, self._stack_frames(positions + steps - 1, obs_age + steps, history)

    def _stack_frames(self, newest: np.ndarray, age: np.ndarray, history: int) -> Tensor:
        positions = newest[:, None] - indexing.frame_offsets(age, history)
        flat = self._frames.reshape(len(self._frames), -1)  # one copy of H·W bytes per frame
        return torch.from_numpy(flat.take(positions, axis=0, mode="wrap")).unflatten(-1, self._frames.shape[1:])
