"""The replay: a ring of rows, sampled into batches that the update takes as they are."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.config.schema import ReplayConfig
from app.envs.spec import ObservationSpec
from app.replay import windows
from app.replay.batch import Batch
from app.replay.layout import MAX_AGE, RowLayout, arrays
from app.replay.ring import Ring
from app.replay.storage import Storage
from app.tmrl_api import Buffer, TorchMemory

STATS = ("stat_test_return", "stat_train_return", "stat_test_steps", "stat_train_steps")  # that tmrl keeps here


class ReplayMemory(TorchMemory):
    """A ring of steps from which observations are rebuilt when they are sampled.

    A row holds one step: its sensors, the action that led to it, the reward that came with it, one frame, its
    age (steps since the reset) and whether it ended the episode. Image histories, action histories and
    context windows are gathered from adjacent rows, never across the border of an episode, and equal what
    the environment showed bit for bit.

    A transition is a row i with age >= 1: action and reward of row i, taken in the observation of row i-1.

    To save: ``state_dict`` makes the rows durable and returns the rest; when a checkpoint with it is written,
    ``protect`` the states of all checkpoints that exist. To go on: ``verify`` a state, then ``load_state_dict``.

    Attributes:
        rng: Draws the batches.
        env_steps: Number of environment steps ever appended (resets not counted).
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
        """Make or open the ring.

        Args:
            spec: The environment's observation.
            cfg: Capacity and batch size.
            n_step: Number of rewards summed up before the bootstrap.
            gamma: Discount per step.
            horizons: Steps ahead whose rewards a batch carries; may be empty.
            nb_steps: Batches per round, as tmrl's training loop asks for them.
            device: Where the batches are put.
            seed: Seeds the sampling.
            storage: Makes the arrays. They may come with old contents: ``load_state_dict`` tells what of it
                counts.
            slack: Rows beyond the capacity, for what comes after a checkpoint (``layout.slack_of``); none are
                needed without checkpoints.
        """
        self._spec, self._n_step, self._gamma, self._horizons = spec, n_step, gamma, tuple(horizons)
        self._layout = RowLayout.of(spec)
        self._ring = Ring(arrays(spec, cfg.capacity + slack), storage, cfg.capacity, slack)
        self._rows, self._age, self._ends = (self._ring.arrays[name] for name in ("rows", "age", "ends"))
        self._frames = self._ring.arrays.get("frames")
        image_history = spec.image_shape[0] if spec.image_shape is not None else 1
        # Rows that make up an observation, its own included; rows from a transition's own on that are read.
        self._recent_rows, self._recent_share = cfg.recent_rows, cfg.recent_share
        self._depth = max(spec.window, spec.action_history, 1)
        self._reach = max(self._depth, image_history) - 1
        self._ahead = max(n_step, *self._horizons, 1)
        self.env_steps = 0
        self._rewards = [math.inf, -math.inf]
        self.rng = np.random.default_rng(seed)
        # Otherwise tmrl would unpickle any data.pkl that lies in the working directory.
        super().__init__(device, nb_steps, memory_size=cfg.capacity, batch_size=cfg.batch_size, dataset_path=os.devnull)

    def __len__(self) -> int:
        """Return the number of rows held: steps and resets."""
        return self._ring.size

    @property
    def appended(self) -> int:
        """Number of rows ever appended."""
        return self._ring.appended

    @property
    def room(self) -> int:
        """Rows that can be appended before one is overwritten that a protected state counts on.

        A little less than the slack once the ring is full; unlimited (``ring.UNLIMITED``) while none is protected.
        """
        return self._ring.room

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._ring.arrays.values())

    def append_buffer(self, buffer: Buffer) -> None:
        """Append the steps of a worker's buffer; episodes may go on from one buffer to the next.

        Args:
            buffer: Steps as ``SampleCompressor`` makes them; an action of None begins an episode.

        Raises:
            ValueError: If a step follows no row of its own episode, or the steps are more than ``room``.
            UserError: If the storage cannot take them. Nothing is appended in either case.
        """
        steps = buffer.memory
        if not steps:
            return
        resets = np.array([step[0] is None for step in steps])
        ends = np.array([step[3:5] for step in steps], dtype=np.bool_)
        newest = self._ring.head - 1
        open_before = len(self) > 0 and not self._ends[newest].any()
        follows_open = np.append(open_before, ~ends.any(axis=1)[:-1])
        if not (resets | follows_open).all():
            raise ValueError("the stream of steps has a gap: a step follows neither a reset nor an open step")
        ages = windows.ages_of(resets, int(self._age[newest]) if len(self) else 0)
        values = {"rows": self._layout.rows_of(steps), "age": np.minimum(ages, MAX_AGE), "ends": ends}
        if self._frames is not None:
            values["frames"] = np.stack([step[1]["frame"] for step in steps])
        self._ring.append(values)
        self.env_steps += int(np.count_nonzero(~resets))
        rewards = values["rows"][~resets, self._layout.reward]
        low, high = self._rewards
        self._rewards = [float(rewards.min(initial=low)), float(rewards.max(initial=high))]

    def reward_range(self) -> dict[str, float]:
        """Return the lowest and the highest reward ever appended; empty if there was none."""
        low, high = self._rewards
        return {"reward_min": low, "reward_max": high} if low <= high else {}

    def sample(self) -> Batch:
        """Draw a batch with replacement from all transitions whose observations can be rebuilt.

        A share of it comes from the newest rows, each part uniformly.

        Raises:
            RuntimeError: If there is no such transition.
        """
        return self._gather(self._draw())

    def get_transition(self, item: int) -> tuple[Any, ...]:
        """Return one transition as tmrl's memories do; the training takes ``sample``.

        Args:
            item: Row, 0 the oldest held.

        Returns:
            Observation, action, reward, next observation, terminated, truncated and an empty info, as arrays.
        """
        if not 0 <= item < len(self) or not self._is_complete(np.array([item]))[0]:
            raise IndexError(f"row {item} of {len(self)} is no transition that can be rebuilt")
        batch = self._gather(np.array([item]))
        obs, next_obs = (
            {name: part[0].cpu().numpy() for name, part in whole.items()} for whole in (batch.obs, batch.next_obs)
        )
        action, reward = batch.action[0].cpu().numpy(), batch.reward[0].cpu().numpy()
        return obs, action, reward, next_obs, bool(batch.terminated[0]), bool(batch.truncated[0]), {}

    def protect(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Keep in place what some states count on: those of all checkpoints that exist, and no others.

        Args:
            states: What ``state_dict`` returned for each; without any, nothing is kept and ``room`` is unlimited.
        """
        self._ring.protect(states)

    def seal(self) -> None:
        """Make all rows durable and remember their checksums; costs as much as there are new rows."""
        self._ring.seal()

    def state_dict(self) -> dict[str, Any]:
        """Seal, and return all that is not in the arrays, as plain numbers, strings, lists and dicts."""
        # NumPy's scalars are equal to the plain ones, but are no plain data.
        stats = {name: np.asarray(getattr(self, name)).item() for name in STATS}
        return {
            **self._ring.state(),
            "env_steps": self.env_steps,
            "rewards": list(self._rewards),
            "rng": self.rng.bit_generator.state,
            "stats": stats,
        }

    def verify(self, state: Mapping[str, Any]) -> str:
        """Read all rows that a state counts on, which takes a while.

        Returns:
            A sentence that names the first file or rows that are damaged, and "" if it can be loaded.
        """
        return self._ring.verify(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; the arrays must hold what they held then.

        Raises:
            ValueError: If the state does not fit this capacity.
        """
        self._ring.load(state)
        self.load_counters(state)

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Continue the counters and the random stream alone: the rows of the state were cleared."""
        self.env_steps = state["env_steps"]
        self._rewards = list(state["rewards"])
        self.rng.bit_generator.state = state["rng"]
        for name in STATS:
            setattr(self, name, state["stats"][name])

    def _draw(self) -> np.ndarray:
        """Draw the rows of a batch, (B,), 0 the oldest."""
        if len(self) == 0:
            raise RuntimeError("the replay is empty: nothing can be sampled")
        recent = round(self._recent_share * self.batch_size)
        parts = {0: self.batch_size - recent}
        newest = max(0, len(self) - self._recent_rows)
        parts[newest] = parts.get(newest, 0) + recent
        return np.concatenate([self._draw_from(oldest, count) for oldest, count in parts.items() if count])

    def _draw_from(self, oldest: int, count: int) -> np.ndarray:
        """Draw rows (count,) from ``oldest`` on: uniformly, and those that do not fit again."""
        accepted, missing = [], count
        while missing > 0:
            rows = self.rng.integers(oldest, len(self), size=missing + missing // 8 + 8)
            rows = rows[self._is_complete(rows)][:missing]
            if len(rows) == 0 and not self._is_complete(np.arange(oldest, len(self))).any():
                if oldest == 0:
                    raise RuntimeError(f"none of the replay's {len(self)} rows is a transition that can be rebuilt")
                oldest = 0
            accepted.append(rows)
            missing -= len(rows)
        return np.concatenate(accepted)

    def _is_complete(self, rows: np.ndarray) -> np.ndarray:
        age = self._age.take(self._physical(rows), mode="wrap").astype(np.int64)
        return windows.is_complete(rows, age, self._reach)

    def _physical(self, rows: np.ndarray) -> np.ndarray:
        """Return positions in the arrays, less their length where negative: ``mode="wrap"`` adds it."""
        return rows + (self._ring.head - len(self))

    def _gather(self, rows: np.ndarray) -> Batch:
        """Rebuild the transitions of some rows (B,), 0 the oldest; each must be complete."""
        own = self._physical(rows)
        ages = self._age.take(own[:, None] + np.arange(self._ahead), mode="wrap").astype(np.int64)
        age_before = ages[:, 0] - 1  # of the row of obs
        # Adjacent rows: the history of obs, then the transition's own row and what is looked at ahead of it.
        stretch = self._rows.take(own[:, None] + np.arange(-self._depth, self._ahead), axis=0, mode="wrap")
        stretch[:, : self._depth][windows.before_episode(age_before, self._depth)] = 0

        alive = windows.same_episode(ages, len(self) - 1 - rows)
        rewards = stretch[:, self._depth :, self._layout.reward]
        n = self._n_step
        steps, reward, discount = windows.discounted_sum(rewards[:, :n], alive[:, :n], self._gamma)
        ends = self._ends.take(own + steps - 1, axis=0, mode="wrap").astype(np.float32)
        future_rewards, future_mask = windows.future(rewards, alive, self._horizons)

        images, next_images = self._images(own, age_before, steps)
        action = stretch[:, self._depth, self._layout.action]
        return Batch(
            obs=self._observation(stretch[:, : self._depth], images),
            action=self._tensor(action),
            reward=self._tensor(reward),
            next_obs=self._observation(windows.shifted(stretch, steps, self._depth), next_images),
            terminated=self._tensor(ends[:, 0]),
            truncated=self._tensor(ends[:, 1]),
            discount=self._tensor(discount),
            future_rewards=self._tensor(future_rewards),
            future_mask=self._tensor(future_mask),
        )

    def _observation(self, history: np.ndarray, images: Tensor | None) -> dict[str, Tensor]:
        """Make an observation from its rows (B, depth, width) and images (B, history, H, W), oldest first."""
        spec, layout = self._spec, self._layout
        sensors = history[:, -1, list(layout.sensor_columns)]
        actions = history[:, self._depth - spec.action_history :, layout.action].reshape(len(history), -1)
        observation = {"floats": self._tensor(np.concatenate([sensors, actions], axis=1))}
        if images is not None:
            observation["images"] = images
        if spec.window:
            observation["window"] = self._tensor(history[:, self._depth - spec.window :, layout.window])
        return observation

    def _images(
        self, own: np.ndarray, age_before: np.ndarray, steps: np.ndarray
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return the image histories of obs and next_obs, (B, history, H, W) uint8."""
        if self._frames is None:
            return None, None
        history = self._spec.image_shape[0]
        if self._n_step == 1:  # all frames but one are shared: gather them once
            shared = self._stack(own, age_before + 1, history + 1)
            return shared[:, :-1], shared[:, 1:]
        return self._stack(own - 1, age_before, history), self._stack(own + steps - 1, age_before + steps, history)

    def _stack(self, newest: np.ndarray, age: np.ndarray, history: int) -> Tensor:
        where = newest[:, None] - windows.frame_steps(age, history)
        flat = self._frames.reshape(len(self._frames), -1)  # one copy of H·W bytes per frame
        return self._tensor(flat.take(where, axis=0, mode="wrap")).unflatten(-1, self._frames.shape[1:])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
