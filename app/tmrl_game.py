"""The game's half of tmrl. It needs Windows, or Linux with a display, so it is imported only to play.

Raises:
    ImportError: on another system, or where a package of tmrl's for the game is missing.
"""

from app import tmrl_api  # isort: split

# tmrl must have been imported there, with a home to read, before anything of it is imported here.

from tmrl.config.config_constants import RTGYM_VERSION
from tmrl.custom.tm.tm_gym_interfaces import TM2020Interface
from tmrl.custom.tm.utils.compute_reward import RewardFunction
from tmrl.custom.tm.utils.tools import Lidar, TM2020OpenPlanetClient
from tmrl.custom.tm.utils.window import WindowInterface

__all__ = [
    "RTGYM_VERSION",
    "Lidar",
    "RewardFunction",
    "TM2020Interface",
    "TM2020OpenPlanetClient",
    "WindowInterface",
    "tmrl_api",
]
