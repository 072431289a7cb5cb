"""The part of tmrl for the real game. It needs Windows, or Linux with a display, so only the game's worker imports it.

Raises:
    ImportError: The system is another one, or one of tmrl's packages for the game is missing.
"""

from app.core import tmrl_api  # isort: split

# tmrl_api must import tmrl first, with a home folder to read.

from tmrl.config.config_constants import RTGYM_VERSION
from tmrl.custom.tm.tm_gym_interfaces import TM2020Interface
from tmrl.custom.tm.utils.compute_reward import RewardFunction
from tmrl.custom.tm.utils.tools import Lidar
from tmrl.custom.tm.utils.window import WindowInterface

__all__ = [
    "RTGYM_VERSION",
    "Lidar",
    "RewardFunction",
    "TM2020Interface",
    "WindowInterface",
    "tmrl_api",
]
