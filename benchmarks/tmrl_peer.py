"""Parts of tmrl that the benchmarks compare with."""

from app.core import tmrl_api  # noqa: F401  imports tmrl without its side effects

# isort: split
import tmrl.config.config_constants as tmrl_constants
from tmrl.custom.custom_algorithms import SpinupSacAgent
from tmrl.custom.custom_memories import MemoryTMFull, get_local_buffer_sample_tm20_imgs
from tmrl.custom.custom_models import VanillaCNNActorCritic
from tmrl.networking import dump_run_instance, load_run_instance

# tmrl's CNN and memory read their sizes here; a user's own TmrlData must not change them.
tmrl_constants.IMG_WIDTH = tmrl_constants.IMG_HEIGHT = 64
tmrl_constants.IMG_HIST_LEN, tmrl_constants.DEBUG_MODE = 4, False

__all__ = [
    "MemoryTMFull",
    "SpinupSacAgent",
    "VanillaCNNActorCritic",
    "dump_run_instance",
    "get_local_buffer_sample_tm20_imgs",
    "load_run_instance",
]
