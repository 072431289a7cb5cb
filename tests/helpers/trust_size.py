"""Size of the searches of ``make test-trust``."""

import math
import os

_SHARE, _DEFAULT_SHARE = "TRUST_SHARE", 0.1
SEED = 20_260_930  # of every search, so that a share repeats the same cases


def cases(full: int) -> int:
    """Return how many cases a search tries: its share of the full number, and one at least.

    Args:
        full: Number of cases of the whole search, which ``TRUST_SHARE=1`` asks for.
    """
    return max(1, math.ceil(full * float(os.environ.get(_SHARE, _DEFAULT_SHARE))))
