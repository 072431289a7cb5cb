"""What a process can be given to do, without importing much."""

import os
import signal
import sys
import time
from pathlib import Path

from app.errors import UserError


def work(task: tuple[Path, str]) -> None:
    """Do as the second part says; the first is a folder for traces."""
    folder, what = task
    (folder / f"{what}.begun").touch()
    if what == "fails":
        raise UserError("it cannot\nbe done")
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stays":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "ready").write_text(str(os.getpid()))
        time.sleep(60)
    if what == "waits":
        signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(143)))
        (folder / "ready").touch()
        time.sleep(60)
