"""A module with a Gymnasium task of a user's: ``env.id=tests.helpers.own_tasks:Own-v0``."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

MODULE = __name__


class Own(gymnasium.Env):
    """Counts its steps.

    Args:
        gain: Reward of a step.
        numbers: Numbers of an observation.
        generator: Generator of the task: "pcg64", or "legacy" for a ``RandomState``.
        fails: Whether the constructor raises.

    Attributes:
        observation: Observation from the third step on, in place of the count.
        reward: Reward from the third step on.
        result: Result of every step, as a whole.
        info: Info of every step.
    """

    def __init__(self, gain=1.0, numbers=2, generator="pcg64", fails=False):
        if fails:
            raise RuntimeError("no licence\nfor this machine")
        self.gain, self.generator = gain, generator
        self.observation = self.reward = self.result = None
        self.info = {}
        self.observation_space = Box(-np.inf, np.inf, (numbers,), np.float64)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.generator == "legacy" and seed is not None:
            self.np_random = np.random.RandomState(seed)
        self.steps, self.start = 0, self.np_random.uniform()
        return np.full(self.observation_space.shape, self.start), {}

    def step(self, action):
        self.steps += 1
        if self.result is not None:
            return self.result
        is_faulty = self.steps >= 3
        observation = np.full(self.observation_space.shape, self.start + self.steps)
        if is_faulty and self.observation is not None:
            observation = self.observation
        return observation, self.gain if self.reward is None or not is_faulty else self.reward, False, False, self.info


gymnasium.register("Own-v0", Own, max_episode_steps=4)
gymnasium.register("OwnEndless-v0", Own)
