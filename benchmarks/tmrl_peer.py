"""The parts of tmrl that the benchmarks compare with; only ``app.tmrl_api`` knows how to import tmrl."""

from app import tmrl_api  # noqa: F401  imports tmrl without its side effects

# isort: split
import tmrl.config.config_constants as tmrl_constants
from tmrl.custom.custom_algorithms import SpinupSacAgent
from tmrl.custom.custom_memories import MemoryTMFull, get_local_buffer_sample_tm20_imgs
from tmrl.custom.custom_models import VanillaCNNActorCritic

__all__ = [
    "MemoryTMFull",
    "SpinupSacAgent",
    "VanillaCNNActorCritic",
    "get_local_buffer_sample_tm20_imgs",
    "tmrl_constants",
]
