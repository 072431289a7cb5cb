"""Laps in the simulator, by hand or by the reference driver: shown, timed, recorded."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from app.config.schema_commands import PlayConfig
from app.config.schema_env import SimConfig
from app.core.console import make_console, print_line
from app.core.errors import UserError
from app.driving_game.drivers import Driver, LineDriver
from app.driving_game.ghost import Ghost, GhostDriver, physics
from app.driving_game.lap_records import LapRecords
from app.driving_game.recorder import DemonstrationFile, EpisodeRecorder
from app.driving_game.screen import Board, Quit, Restart, Screen
from app.envs.driving.sim_env import SimEnv
from app.evaluation.episodes import Start, run_episodes
from app.evaluation.results import Episode
from app.reporting.number_format import lap_time, percent
from app.runs.fingerprint import fingerprint_digest

_ENDS = {"off_track": "off the track", "stalled": "stood still", "timeout": "out of time"}
_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0


def play(config: PlayConfig) -> list[Episode]:
    """Drive laps until enough are driven or the driver quits.

    Returns:
        The laps, unfinished ones included, those that were restarted not.

    Raises:
        UserError: Something cannot be done as configured.
    """
    env_config = _require_playable(config)
    env = SimEnv(env_config, [config.track], seed=0, render_size=config.window_size)
    file = None if config.record is None else DemonstrationFile(Path(config.record), env, env_config)
    digest = fingerprint_digest(json.dumps(physics(env_config), sort_keys=True))
    records = LapRecords(Path(config.laps_dir), config.driver, digest)
    ghosts = None if config.ghost is None else GhostDriver(config.ghost, env_config, config.threads)
    with contextlib.closing(env), _open_screen(config, env_config) as screen:
        game = Game(config, env, screen, records, file, ghosts, make_console())
        game.drive()
    game.report()
    return game.laps


class Game:
    """Drives one lap after the other.

    Args:
        config: Configuration of the command.
        env: The simulator.
        screen: The window; None without one.
        records: Receives every lap.
        file: Receives the steps of every lap; None: they are not recorded.
        ghosts: Drives the ghosts; None without.
        console: Console for messages.

    Attributes:
        laps: The laps so far.
    """

    def __init__(
        self,
        config: PlayConfig,
        env: SimEnv,
        screen: Screen | None,
        records: LapRecords,
        file: DemonstrationFile | None,
        ghosts: GhostDriver | None,
        console: Console,
    ) -> None:
        self._config, self._env, self._screen, self._console = config, env, screen, console
        self._records, self._file, self._ghosts = records, file, ghosts
        self._recorder = EpisodeRecorder(env)
        self._driver = self._make_driver()
        self._known_ghosts: dict[Start, Ghost] = {}
        self._board = Board()
        self.laps: list[Episode] = []

    def drive(self) -> None:
        """Drive all laps."""
        try:
            while self._config.laps is None or len(self.laps) < self._config.laps:
                self._drive_lap(self._next_start())
        except Quit:
            pass

    def report(self) -> None:
        """Print where the laps are."""
        if not self.laps:
            print_line(self._console, "No lap was driven.")
            return
        print_line(self._console, f"laps    {self._records.path}")
        if self._file is not None:
            print_line(
                self._console,
                f"record  {self._config.record}: python app/train.py training.demonstrations={self._config.record} "
                "learns from it",
            )

    def _drive_lap(self, start: Start) -> None:
        """Drive until the lap ends; a lap that is restarted leaves nothing behind."""
        board = self._board
        board.best, board.ghost = self._records.best(start.track, start.position), self._ghost(start)
        try:
            (episode,) = run_episodes(
                [self._recorder], [start], lambda *_: [self._driver.act(self._env)], self._before_step
            )
        except Restart:
            return
        self.laps.append(episode)
        self._records.add(episode)
        if self._file is not None:
            self._file.add(self._recorder.steps, episode, self._config.driver)
        print_line(self._console, self._describe(episode, board.best))
        board.last = episode.lap_time
        board.best = self._records.best(start.track, start.position)
        if self._screen is not None:
            self._screen.show_result(self._env, board)

    def _before_step(self) -> None:
        """Show the state before every step; before the first one, wait until the driver gives gas."""
        if self._env.steps == 0:
            self._driver.begin(self._env)
        if self._screen is None:
            return
        self._screen.show(self._env, self._board, is_waiting=self._env.steps == 0)
        while self._env.steps == 0 and self._driver.act(self._env)[0] <= 0.0:
            self._screen.show(self._env, self._board, is_waiting=True)

    def _next_start(self) -> Start:
        position = self._config.start
        if position is None:  # spread over the track, however many laps there will be
            position = len(self.laps) * _GOLDEN_RATIO % 1.0
        return Start(self._config.track, position)

    def _ghost(self, start: Start) -> Ghost | None:
        if self._ghosts is None:
            return None
        if start not in self._known_ghosts:
            self._known_ghosts[start] = self._ghosts.drive(start)
        return self._known_ghosts[start]

    def _make_driver(self) -> Driver:
        if self._config.driver == "reference":
            return LineDriver(self._config.env)
        return self._screen.make_driver(self._config.gamepad, self._config.env.step_s)

    def _describe(self, episode: Episode, best: float | None) -> str:
        where = f"lap {len(self.laps)}  track {episode.track} from {episode.start:.2f}: "
        if episode.lap_time is None:
            return f"{where}{_ENDS[episode.outcome]} after {percent(episode.lap_share)} of the lap"
        if best is None:
            return f"{where}{lap_time(episode.lap_time)}"
        comparison = "a new best lap" if episode.lap_time < best else f"the best is {lap_time(best)}"
        return f"{where}{lap_time(episode.lap_time)} ({comparison})"


@contextlib.contextmanager
def _open_screen(config: PlayConfig, env: SimConfig) -> Iterator[Screen | None]:
    """Open the window, if there is to be one, and close it at the end."""
    if not config.window:
        yield None
        return
    with contextlib.closing(Screen(config.window_size, env.step_s)) as screen:
        yield screen


def _require_playable(config: PlayConfig) -> SimConfig:
    """Return the simulator's configuration, or raise UserError for what cannot be driven like this."""
    if not isinstance(config.env, SimConfig):
        raise UserError(
            f"env = {config.env.name}: only the built-in simulator can be driven here. Use env=sim or env=sim_lidar."
        )
    if not config.window and config.driver == "human":
        raise UserError("driver = human: needs a window to press keys in. Use window=true, or driver=reference.")
    if not config.window and config.laps is None:
        raise UserError("laps = null: would never end without a window. Set the number of laps, such as laps=5.")
    return config.env
