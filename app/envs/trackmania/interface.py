"""rtgym interface of the game: tmrl's, with images and lidar in one observation."""

import time
from collections import deque
from typing import Any

import cv2
import numpy as np
from gymnasium import spaces

from app.config.schema_env import RewardConfig, TrackmaniaConfig
from app.core.tmrl_game import Lidar, RewardFunction, TM2020Interface, WindowInterface
from app.envs.spec import EnvError
from app.envs.trackmania.openplanet import OpenPlanetClient, Packet

_RESPAWN_S = 0.1  # duration of tmrl's respawn by gamepad


class ImageLidarInterface(TM2020Interface):
    """Speed, gear, rpm, the last grey images and 19 lidar beams, with tmrl's reward and gamepad.

    An observation is ``[speed (1,), gear (1,), rpm (1,), images (history, S, S), lidar (19,)]``, all float32 but the
    images, which are uint8 and oldest first; rtgym adds the last actions. Image and lidar come from one screenshot.

    Args:
        config: Parameters of the environment.
        trajectory: ``(N, 3)``, m; the reward follows it.
    """

    def __init__(self, config: TrackmaniaConfig, trajectory: np.ndarray) -> None:
        size = (config.image_size, config.image_size)
        super().__init__(config.image_history, gamepad=True, grayscale=True, resize_to=size)
        self.finish_reward, self.constant_penalty = config.reward.finish, config.reward.per_step
        self.reward_function = make_reward_function(config.reward, trajectory)
        self._config = config
        self._lidar: Lidar | None = None
        self._beams = np.zeros(config.lidar_beams, np.float32)
        self._finished = False

    @property
    def lap_share(self) -> float:
        """Share of the trajectory that was reached, in [0, 1]."""
        return self.reward_function.cur_idx / (self.reward_function.datalen - 1)

    def initialize(self) -> None:
        """Connect to the plugin, the gamepad and the window.

        Raises:
            EnvError: If plugin or window are missing.
            Exception: If the gamepad cannot be created; its kind depends on the operating system.
        """
        import vgamepad  # needs a driver of the operating system

        config = self._config
        self.client = OpenPlanetClient(config.openplanet)
        self.j = vgamepad.VX360Gamepad()
        self.window_interface = find_window(config.game_window.title)
        self.window_interface.move_and_resize(w=config.game_window.width, h=config.game_window.height)
        self.img_hist = deque(maxlen=config.image_history)
        self._lidar = Lidar(self._screenshot())
        self.initialized = True

    def find_game(self) -> None:
        """Look for the plugin and the window, without keeping a connection.

        Raises:
            EnvError: If one of them is missing.
        """
        OpenPlanetClient(self._config.openplanet).close()
        find_window(self._config.game_window.title)

    def reset_common(self) -> None:
        """Respawn, and wait until the game shows it."""
        if not self.initialized:
            self.initialize()
        self.send_control(self.get_default_action())
        self.reset_race()
        time.sleep(max(0.0, self._config.sleep_at_reset - _RESPAWN_S))

    def grab_data_and_img(self) -> tuple[Packet, np.ndarray]:
        """Return the plugin's packet and the image ``(S, S)`` uint8; the lidar reads the same screenshot."""
        screenshot = self._screenshot()
        self._beams = self._lidar.lidar_20(screenshot)
        small = cv2.resize(screenshot, self.resize_to, interpolation=cv2.INTER_AREA)  # the road's borders are thin
        self.img = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        packet = self.client.newest_packet()
        self._finished = bool(packet.finished)
        return packet, self.img

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list, dict[str, Any]]:
        """Respawn and return the first observation and an empty info."""
        observation, info = super().reset(seed, options)
        return [*observation, self._beams], info

    def get_obs_rew_terminated_info(self) -> tuple[list, np.float32, bool, dict[str, Any]]:
        """Return observation, reward, terminated and info; ``info["finished"]`` says that the map was finished.

        Without it, a terminated episode is one that the reward function gave up.
        """
        observation, reward, terminated, info = super().get_obs_rew_terminated_info()
        return [*observation, self._beams], reward, terminated, info | {"finished": self._finished}

    def get_observation_space(self) -> spaces.Tuple:
        """Return the space of an observation, without the actions."""
        lidar = spaces.Box(0.0, np.inf, (self._config.lidar_beams,), np.float32)
        return spaces.Tuple((*super().get_observation_space().spaces, lidar))

    def close(self) -> None:
        """Release the car's controls and disconnect from the plugin."""
        if self.initialized:
            self.send_control(self.get_default_action())
            self.client.close()

    def _screenshot(self) -> np.ndarray:
        """Return the content of the window, ``(H, W, 3)`` uint8, BGR.

        Raises:
            EnvError: If it has not the configured size, for which the lidar was made.
        """
        screenshot = self.window_interface.screenshot()[:, :, :3]
        window, (height, width) = self._config.game_window, screenshot.shape[:2]
        if (height, width) != (window.height, window.width):
            raise EnvError(
                f"env.game_window = {window.width} × {window.height}: the window is {width} × {height} pixels. Set the "
                "game to windowed mode, and the scaling of the display to 100 %."
            )
        return screenshot


def find_window(title: str) -> WindowInterface:
    """Return tmrl's interface to the window with this title.

    Raises:
        EnvError: If there is none. On Linux tmrl itself would go on, and take screenshots of the whole screen.
    """
    window = WindowInterface(title)
    if getattr(window, "window_id", title) is None:
        raise EnvError(
            f"env.game_window.title = {title}: there is no window with this title. Start Trackmania in windowed mode, "
            "not minimised, with xdotool installed; or set another env.game_window.title."
        )
    return window


def make_reward_function(config: RewardConfig, trajectory: np.ndarray) -> RewardFunction:
    """Return tmrl's reward function for a trajectory ``(N, 3)`` that was already read: tmrl would unpickle the file."""
    reward = RewardFunction(
        reward_data_path="",
        nb_obs_forward=config.check_forward,
        nb_obs_backward=config.check_backward,
        nb_zero_rew_before_failure=config.failure_countdown,
        min_nb_steps_before_failure=config.min_steps,
        max_dist_from_traj=config.max_stray,
    )
    reward.data, reward.datalen = trajectory, len(trajectory)
    return reward
