"""The simulator as Gymnasium's users expect it: registered as ``TrackSim-v0`` and ``TrackSimLidar-v0``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from gymnasium import spaces
from omegaconf import OmegaConf
from omegaconf.errors import UnsupportedValueType

from app.config.load import CONF, ConfigError, validate
from app.config.schema_env import SimConfig
from app.envs.driving.sim_env import SimEnv
from app.envs.spec import EnvError, make_car_spec
from app.envs.video.window import Window

OPTIONS = ("sim", "sim_lidar")  # of conf/env
_MAX_RENDER_SIZE = 2048  # pixels


class TrackSim(SimEnv):
    """``SimEnv`` with render modes, bounded spaces, and the keys of its configuration as arguments.

    Args:
        option: Option of ``conf/env`` that has the defaults.
        render_mode: "human" shows a window in real time, "rgb_array" makes ``render`` return frames, None does neither.
        render_size: Width and height of a frame in pixels.
        **settings: Keys of ``conf/env/sim.yaml`` with other values, such as ``train_tracks=[1, 2]``, ``image_size=64``,
            ``max_steps=500`` or ``car={"grip": 18.0}``.

    Raises:
        EnvError: An argument is unknown or out of range; the message says what is allowed.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 20}

    def __init__(
        self, *, option: str = "sim", render_mode: str | None = None, render_size: int = 480, **settings: Any
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise EnvError(f'render_mode = {render_mode}: must be "human", "rgb_array" or None.')
        if not (isinstance(render_size, int) and 64 <= render_size <= _MAX_RENDER_SIZE):
            raise EnvError(f"render_size = {render_size}: must be a whole number from 64 to {_MAX_RENDER_SIZE}.")
        config = make_config(option, settings)
        super().__init__(config, config.train_tracks, seed=None, render_size=render_size)
        self.observation_space = bounded_space(config)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": config.video_fps}
        self._window: Window | None = None
        self._render_size = render_size

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; see ``TrackEnv.reset``."""
        result = super().reset(seed=seed, options=options)
        if self.render_mode == "human":
            self.render()
        return result

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Drive for one time step; see ``TrackEnv.step``."""
        result = super().step(action)
        if self.render_mode == "human":
            self.render()
        return result

    def render(self) -> np.ndarray | None:
        """Return a frame ``(render_size, render_size, 3)`` uint8, RGB, or show it in the window and return None."""
        if self.render_mode is None:
            return None
        frame = super().render()
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            self._window = Window(self._render_size, "TrackSim", self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


def make_config(option: str, settings: Mapping[str, Any]) -> SimConfig:
    """Return the configuration of the simulator with some values changed.

    Args:
        option: Option of ``conf/env`` that has the defaults, one of ``OPTIONS``.
        settings: New values by key; those of ``car`` and ``track`` are mappings and change what they name.

    Raises:
        EnvError: A key is unknown or a value out of range; the message says what is allowed.
    """
    if option not in OPTIONS:
        raise EnvError(f"option = {option}: must be one of {', '.join(OPTIONS)}.")
    try:
        changed = OmegaConf.merge(OmegaConf.create(read_defaults(option)), OmegaConf.create(_without_numpy(settings)))
        return validate(changed, SimConfig)
    except ConfigError as error:
        raise EnvError(" ".join(error.problems)) from None
    except UnsupportedValueType as error:
        raise EnvError(f"{error.full_key}: must be made of numbers, texts, lists and mappings.") from None


def _without_numpy(value: Any) -> Any:
    """Return a value with Python's own types in place of arrays and numbers of NumPy."""
    if isinstance(value, Mapping):
        return {key: _without_numpy(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_numpy(one) for one in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def read_defaults(option: str) -> dict[str, Any]:
    """Return the values of an option of ``conf/env`` as Hydra composes them, without importing Hydra."""
    values: dict[str, Any] = {}
    own = yaml.safe_load((CONF / "env" / f"{option}.yaml").read_text(encoding="utf-8"))
    for default in own.pop("defaults", ["_self_"]):
        if default == "_self_":
            values |= own
        elif default.startswith("/"):  # such as /driving@_here_
            path = CONF / f"{default[1:].partition('@')[0]}.yaml"
            values |= yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            values |= read_defaults(default)
    return values


def bounded_space(config: SimConfig) -> spaces.Dict:
    """Return the space of an observation with the bounds that the simulator keeps.

    Args:
        config: Parameters of the environment.
    """
    spec = make_car_spec(config)
    highest = np.array(spec.sensor_scale, np.float32)  # of a simulated car: the top speed, gear and rpm, and the range
    action = np.ones(spec.action_dim, np.float32)
    reward = np.float32(config.reward_per_metre * config.track.length / 2.0)  # of half a lap in one step
    past = np.tile(action, spec.action_history)
    row_high = np.concatenate([highest[list(spec.window_sensors)], action, [reward]])
    row_low = np.concatenate([np.zeros(len(spec.window_sensors), np.float32), -action, [-reward]])
    parts: dict[str, spaces.Space] = {
        "floats": spaces.Box(np.concatenate([0.0 * highest, -past]), np.concatenate([highest, past])),
        "window": spaces.Box(np.tile(row_low, (spec.window, 1)), np.tile(row_high, (spec.window, 1))),
    }
    if spec.image_shape is not None:
        parts["images"] = spaces.Box(0, 255, spec.image_shape, np.uint8)
    return spaces.Dict(parts)
