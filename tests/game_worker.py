"""A worker of a run on the stand-in for the game, as a process of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.network.roles import work  # noqa: E402
from tests.game import Game  # noqa: E402
from tests.make import compose  # noqa: E402

if __name__ == "__main__":  # the network's process imports this file, too
    game = Game(Path(sys.argv[1]), metres=60.0)
    game.install(setattr)
    try:
        work(compose(*sys.argv[2:], *game.overrides))
    finally:
        game.stop()
