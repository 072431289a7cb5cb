"""Program that runs a worker on the stand-in for the game.

    python -m tests.helpers.game_worker FOLDER OVERRIDE ...

The folder gets the reward file; the overrides are those of the run.
"""

import sys
from pathlib import Path

from app.distributed.launcher import run_worker
from tests.helpers.game import Game
from tests.helpers.make import compose

if __name__ == "__main__":  # the network's process imports this file, too
    game = Game(Path(sys.argv[1]), metres=60.0)
    game.install(setattr)
    try:
        run_worker(compose(*sys.argv[2:], *game.overrides))
    finally:
        game.stop()
