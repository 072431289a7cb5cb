"""Screen of the game: the driven car with its ghost, lap times and keys, and what is pressed to leave it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.config.schema_commands import GamepadConfig
from app.driving_game.drivers import Gamepad, HumanDriver
from app.driving_game.ghost import Ghost
from app.envs.driving.sim_env import SimEnv
from app.envs.video.hud import DESIGN_SIZE, GHOST, LABEL, TEXT, draw_panel, draw_text
from app.envs.video.window import Window
from app.reporting.number_format import lap_time

KEYS = (
    ("Up or W", "gas"),
    ("Down or S", "brake"),
    ("Left, Right or A, D", "steer"),
    ("R", "restart the lap"),
    ("Q or Esc", "quit"),
    ("gamepad", "triggers and left stick"),
)
_RESULT_S = 2.0  # for which the end of a lap is shown


class Restart(Exception):
    """The driver wants to begin the lap again."""


class Quit(Exception):
    """The driver wants to leave."""


@dataclass
class Board:
    """What is shown beside the car.

    Attributes:
        best: Best lap time from this start in seconds.
        last: Lap time of the lap before in seconds.
        ghost: The ghost from this start.
    """

    best: float | None = None
    last: float | None = None
    ghost: Ghost | None = None


class Screen:
    """Window of the game.

    Args:
        size: Width and height in pixels.
        step_s: Duration of a time step in seconds.

    Raises:
        EnvError: There is no display.
    """

    def __init__(self, size: int, step_s: float) -> None:
        self._window = Window(size, "TrackSim", max(1, round(1.0 / step_s)))
        self._result_frames = round(_RESULT_S / step_s)

    def make_driver(self, gamepad: GamepadConfig, step_s: float) -> HumanDriver:
        """Return the person in front of the window, with every gamepad that is plugged in."""
        pygame = self._window.pygame
        pygame.joystick.init()
        pads = [Gamepad(pygame.joystick.Joystick(i), gamepad) for i in range(pygame.joystick.get_count())]
        return HumanDriver(pygame, pads, step_s)

    def show(self, env: SimEnv, board: Board, is_waiting: bool = False) -> None:
        """Show the present state, and wait until the next is due.

        Args:
            env: The simulator.
            board: Times and ghost.
            is_waiting: Whether the car waits for its driver, so that there is time to read the keys.

        Raises:
            Restart: R was pressed.
            Quit: Q or Esc was pressed, or the window was closed.
        """
        self._raise_commands()
        ghost = board.ghost
        env.ghost = None if ghost is None else ghost.pose(env.steps)
        frame = env.render()
        draw_times(frame, board.best, board.last, None if ghost is None else ghost.gap(env.steps, env.lap_share))
        if is_waiting:
            draw_keys(frame)
        self._window.show(frame)

    def show_result(self, env: SimEnv, board: Board) -> None:
        """Show the end of a lap for a moment; R skips the rest of it."""
        try:
            for _ in range(self._result_frames):
                self.show(env, board)
        except Restart:
            pass

    def close(self) -> None:
        """Close the window."""
        self._window.close()

    def _raise_commands(self) -> None:
        pygame = self._window.pygame
        for event in pygame.event.get():
            key = event.key if event.type == pygame.KEYDOWN else None
            if event.type == pygame.QUIT or key in (pygame.K_q, pygame.K_ESCAPE):
                raise Quit
            if key == pygame.K_r:
                raise Restart


def draw_times(image: np.ndarray, best: float | None, last: float | None, gap: float | None) -> None:
    """Draw lap times and the way to leave, in place.

    Args:
        image: ``(size, size, 3)`` uint8, RGB.
        best: Best lap time in seconds, if there is one.
        last: Lap time of the lap before, if there is one.
        gap: Seconds behind the ghost, if there is one.
    """
    lines = [("BEST", lap_time(best), TEXT), ("LAST", lap_time(last), TEXT)]
    if gap is not None:
        lines.append(("GHOST", f"{gap:+.2f} s", GHOST))
    zoom, bottom = len(image) / DESIGN_SIZE, 30 + 18 * len(lines)
    draw_panel(image, (12, 12, 126, bottom), zoom)
    for row, (name, value, colour) in enumerate(lines):
        draw_text(image, name, (20, 30 + 18 * row), 0.36, LABEL, zoom)
        draw_text(image, value, (118, 30 + 18 * row), 0.42, colour, zoom, anchor=1.0)
    draw_text(image, "R restart   Q quit", (20, bottom - 6), 0.3, LABEL, zoom)


def draw_keys(image: np.ndarray, keys: Sequence[tuple[str, str]] = KEYS) -> None:
    """Draw the keys and what they do, in place."""
    zoom, top = len(image) / DESIGN_SIZE, 132
    draw_panel(image, (90, top, 390, top + 46 + 18 * len(keys)), zoom)
    draw_text(image, "PRESS GAS TO START", (240, top + 26), 0.6, TEXT, zoom, anchor=0.5)
    for row, (name, effect) in enumerate(keys):
        y = top + 52 + 18 * row
        draw_text(image, name, (232, y), 0.42, TEXT, zoom, anchor=1.0)
        draw_text(image, effect, (248, y), 0.42, LABEL, zoom)
