"""Task for worker processes that imports little."""

import os
import signal
import sys
import time
from pathlib import Path

from app.core.errors import UserError


def work(task: tuple[Path, str]) -> None:
    """Behave as the task says.

    Args:
        task: Folder for traces, and the behaviour: "fails", "dies", "stays", "waits", or another word for success.
    """
    folder, behaviour = task
    (folder / f"{behaviour}.begun").touch()
    if behaviour == "fails":
        raise UserError("it cannot\nbe done")
    if behaviour == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stays":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "ready").write_text(str(os.getpid()))
        time.sleep(60)
    if behaviour == "waits":
        signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(143)))
        (folder / "ready").touch()
        time.sleep(60)
