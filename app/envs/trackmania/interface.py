"""The rtgym interface of the game: tmrl's, showing images and lidar at once."""

import time
from collections import deque
from typing import Any

import cv2
import numpy as np
from gymnasium import spaces

from app.config.schema import TrackmaniaConfig
from app.envs.spec import EnvError
from app.envs.trackmania.openplanet import OpenPlanetClient
from app.tmrl_game import Lidar, RewardFunction, TM2020Interface, WindowInterface

_FINISHED = 8  # place of the flag among the 11 numbers of the plugin
_RESPAWN_S = 0.1  # that tmrl's respawn by gamepad takes itself


class TM2020HybridInterface(TM2020Interface):
    """Speed, gear, rpm, the last grey pictures and 19 lidar beams; tmrl's reward, gamepad and plugin.

    An observation is ``[speed (1,), gear (1,), rpm (1,), images (history, S, S), lidar (19,)]``: float32, the pictures
    uint8 and oldest first; rtgym adds the last actions. Pictures and lidar come from one screenshot.

    Args:
        cfg: of the game.
        trajectory: (N, 3), m; what the reward follows.
    """

    def __init__(self, cfg: TrackmaniaConfig, trajectory: np.ndarray):
        super().__init__(cfg.image_history, gamepad=True, grayscale=True, resize_to=(cfg.image_size, cfg.image_size))
        self.finish_reward, self.constant_penalty = cfg.reward.finish, cfg.reward.per_step
        self.reward_function = make_reward(cfg, trajectory)
        self._cfg = cfg
        self._lidar: Lidar | None = None
        self._beams = np.zeros(cfg.lidar_beams, np.float32)
        self._finished = False

    @property
    def lap_share(self) -> float:
        """Share of the trajectory that was reached, 0 to 1."""
        return self.reward_function.cur_idx / (self.reward_function.datalen - 1)

    def initialize(self) -> None:
        """Get hold of the plugin, the gamepad and the window.

        Raises:
            EnvError: one of them is not there.
        """
        import vgamepad  # needs a driver of the operating system

        cfg = self._cfg
        self.client = OpenPlanetClient(cfg.openplanet)
        self.j = vgamepad.VX360Gamepad()
        self.window_interface = find_window(cfg.game_window.title)
        self.window_interface.move_and_resize(w=cfg.game_window.width, h=cfg.game_window.height)
        self.img_hist = deque(maxlen=cfg.image_history)
        self._lidar = Lidar(self._screenshot())
        self.initialized = True

    def reset_common(self) -> None:
        """Respawn, and wait until the game shows it."""
        if not self.initialized:
            self.initialize()
        self.send_control(self.get_default_action())
        self.reset_race()
        time.sleep(max(0.0, self._cfg.sleep_at_reset - _RESPAWN_S))

    def grab_data_and_img(self) -> tuple[tuple[float, ...], np.ndarray]:
        """Return the plugin's numbers and the picture ``(S, S)`` uint8; the lidar reads the same screenshot."""
        picture = self._screenshot()
        self._beams = self._lidar.lidar_20(picture)
        small = cv2.resize(picture, self.resize_to, interpolation=cv2.INTER_AREA)  # the road's borders are thin
        self.img = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        data = self.client.newest()
        self._finished = bool(data[_FINISHED])
        return data, self.img

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list, dict[str, Any]]:
        """Respawn and return the first observation."""
        obs, info = super().reset(seed, options)
        return [*obs, self._beams], info

    def get_obs_rew_terminated_info(self) -> tuple[list, np.float32, bool, dict[str, Any]]:
        """Return what the game shows now; ``info`` tells a finished map from an episode that the reward gave up."""
        obs, reward, terminated, info = super().get_obs_rew_terminated_info()
        return [*obs, self._beams], reward, terminated, info | {"finished": self._finished}

    def get_observation_space(self) -> spaces.Tuple:
        """Return the space of an observation, without the actions."""
        lidar = spaces.Box(0.0, np.inf, (self._cfg.lidar_beams,), np.float32)
        return spaces.Tuple((*super().get_observation_space().spaces, lidar))

    def close(self) -> None:
        """Let go of the plugin, with the car's controls at rest."""
        if self.initialized:
            self.send_control(self.get_default_action())
            self.client.close()

    def _screenshot(self) -> np.ndarray:
        """Return the window, BGR ``(H, W, 3)`` uint8.

        Raises:
            EnvError: it has not the size that the lidar was made for.
        """
        picture = self.window_interface.screenshot()[:, :, :3]
        window, (height, width) = self._cfg.game_window, picture.shape[:2]
        if (height, width) != (window.height, window.width):
            raise EnvError(
                f"env.game_window = {window.width} × {window.height}: the window is {width} × {height} pixels. Set the "
                "game to windowed mode, and the scaling of the display to 100 %."
            )
        return picture


def find_window(title: str) -> WindowInterface:
    """Return tmrl's hold on the window with this title.

    Raises:
        EnvError: there is none. On Linux tmrl goes on without, and shows whatever else is on the screen.
    """
    window = WindowInterface(title)
    if getattr(window, "window_id", title) is None:
        raise EnvError(
            f"env.game_window.title = {title}: no window is called so. Start Trackmania in windowed mode, not "
            "minimised, with xdotool installed; or name its window: env.game_window.title."
        )
    return window


def make_reward(cfg: TrackmaniaConfig, trajectory: np.ndarray) -> RewardFunction:
    """Return tmrl's reward function for a trajectory that was read by ourselves: tmrl would unpickle the file."""
    given = cfg.reward
    reward = RewardFunction(
        reward_data_path="",
        nb_obs_forward=given.check_forward,
        nb_obs_backward=given.check_backward,
        nb_zero_rew_before_failure=given.failure_countdown,
        min_nb_steps_before_failure=given.min_steps,
        max_dist_from_traj=given.max_stray,
    )
    reward.data, reward.datalen = trajectory, len(trajectory)
    return reward
