"""The folder of a root's past: receipts of restarts, and the records of its earlier lives."""

import os
from datetime import datetime, timezone
from itertools import count
from pathlib import Path


def unused_time(root: Path) -> str:
    """Return the time (UTC) as the name of a folder that neither ``history/`` nor ``archive/`` of a root has.

    Such as "20261122T223015Z", and "20261122T223015Z-2" in the same second. The caller holds the lock of the root.
    """
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    names = (now if number == 1 else f"{now}-{number}" for number in count(1))
    return next(
        name for name in names if not any(os.path.lexists(root / place / name) for place in ("history", "archive"))
    )
