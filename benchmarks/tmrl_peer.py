"""The parts of tmrl that the benchmarks compare with; only ``app.tmrl_api`` knows how to import tmrl."""

from app import tmrl_api  # noqa: F401  imports tmrl without its side effects

# isort: split
from tmrl.custom.custom_memories import MemoryTMFull, get_local_buffer_sample_tm20_imgs

__all__ = ["MemoryTMFull", "get_local_buffer_sample_tm20_imgs"]
