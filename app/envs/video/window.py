"""A window that shows frames in real time, with the keys and gamepads of whoever looks at it."""

import os

import numpy as np

from app.core.system import silence_pygame
from app.envs.spec import EnvError

_INVISIBLE = ("dummy", "offscreen")  # drivers of SDL


class Window:
    """A square window of pygame; only one can be open in a process.

    Args:
        size: Width and height in pixels.
        title: Text of its title bar.
        fps: Frames per second; ``show`` waits as long as needed.

    Attributes:
        pygame: The module, for its events, keys and gamepads.

    Raises:
        EnvError: pygame is missing, or there is no display.
    """

    def __init__(self, size: int, title: str, fps: int) -> None:
        self.pygame = pygame = _import_pygame()
        try:
            pygame.display.init()
            driver = pygame.display.get_driver()
            if driver in _INVISIBLE and os.environ.get("SDL_VIDEODRIVER") != driver:  # SDL's last resort
                pygame.display.quit()
                raise pygame.error("there is no display")
            self._screen = pygame.display.set_mode((size, size))
        except pygame.error as error:
            raise EnvError(
                f"No window can be opened ({error}). Start it on a machine with a display. Where nobody has to see it, "
                "xvfb-run provides a display, and SDL_VIDEODRIVER=dummy does without."
            ) from None
        pygame.display.set_caption(title)
        self._clock, self._fps = pygame.time.Clock(), fps

    def show(self, frame: np.ndarray) -> None:
        """Show a frame ``(size, size, 3)`` uint8, RGB, and wait until the next one is due."""
        pygame = self.pygame
        surface = pygame.image.frombuffer(np.ascontiguousarray(frame), frame.shape[1::-1], "RGB")
        self._screen.blit(surface, (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        self.pygame.display.quit()


def _import_pygame():
    silence_pygame()
    try:
        import pygame
    except ImportError as error:
        raise EnvError(f"a window needs pygame ({error}). Install it: pip install pygame-ce.") from None
    return pygame
