"""Runs of the doctor's checks in a home of their own, and stand-ins for the game and for servers."""

import dataclasses
import functools
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from app.config.load import validate
from app.config.schema import Config
from app.diagnostics import game_checks, network_checks, system_checks
from app.diagnostics.check import Check, Finding, assess_roles, run_check
from app.diagnostics.checkup import run_checkup
from tests.helpers.game import Game, Window
from tests.helpers.make import raw

PASSWORD = "network.password=a-good-password"
_SIZE = (958, 488)  # pixels of the game's window


def config_of(*overrides: str) -> Config:
    """Return the configuration that the doctor examines: typed, its rules between keys unchecked."""
    return _config_of(overrides, os.environ.get("TRACKMANIA_PASSWORD"))


@functools.cache
def _config_of(overrides: tuple[str, ...], _: str | None) -> Config:
    return validate(raw(*overrides), Config)


def playing(stand_in: Game, *overrides: str, port: int | None = None, reward_file: Path | None = None) -> Config:
    """Return the configuration for the stand-in of the game."""
    config = config_of("env=trackmania", *overrides)  # composed once: port and file differ from test to test
    openplanet = dataclasses.replace(config.env.openplanet, port=port or stand_in.plugin.port)
    files = {"reward_file": str(reward_file or stand_in.reward_file)}
    return dataclasses.replace(config, env=dataclasses.replace(config.env, openplanet=openplanet, **files))


def finding_of(name: str, config: Config, timeout_s: float | None = None) -> Finding:
    """Return the finding of one check."""
    groups = (system_checks, network_checks, game_checks)
    (check,) = (check for group in groups for check in group.checks(config) if check.name == name)
    return run_check(check if timeout_s is None else dataclasses.replace(check, timeout_s=timeout_s), config)


def checkup(config: Config, **console) -> tuple[bool, str]:
    """Return whether everything is there that the run needs, and the whole report."""
    page = io.StringIO()
    ready = run_checkup(config, Console(file=page, highlight=False, **console))
    return ready, page.getvalue()


def blockers(config: Config, role: str, *checks: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return what prevents a role if some checks, each needed by some roles, report that something is missing."""
    results = [
        (Check(name, lambda _: None, roles, "mend"), Finding("missing", "none", "mend")) for name, roles in checks
    ]
    return next(readiness.blockers for readiness in assess_roles(config, results) if readiness.role == role)


def isolate_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home and working folder for the test, without a password; returns it."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("TRACKMANIA_PASSWORD", raising=False)
    monkeypatch.chdir(home)
    return home


@contextmanager
def complete_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Game]:
    """Yield a stand-in for everything that the game needs."""
    folder = tmp_path / "game"
    folder.mkdir()
    stand_in = Game(folder, metres=60.0)
    stand_in.install(monkeypatch.setattr)
    put_window(monkeypatch, lambda title: Window(title, stand_in.car, _SIZE))
    _put_xdotool(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(game_checks.platform, "system", lambda: "Linux")
    yield stand_in
    stand_in.stop()


def put_window(monkeypatch: pytest.MonkeyPatch, make: Callable) -> None:
    """Have tmrl find the window that a function of the title returns."""
    import app.envs.trackmania.interface as interface  # not before the test has a home of its own: tmrl reads it

    monkeypatch.setattr(interface, "WindowInterface", make)


def _put_xdotool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a display, and put an xdotool in front of all others."""
    folder.mkdir()
    program = folder / "xdotool"
    program.write_text("#!/bin/sh\ncat <<END\nWINDOW=7\nX=1\nY=2\nWIDTH=800\nHEIGHT=600\nSCREEN=0\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")


@contextmanager
def listening(send: bytes, hang_up: bool = False) -> Iterator[int]:
    """Yield the port of a server that sends some bytes to every client."""
    listener, kept = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        while True:
            try:
                kept.append(listener.accept()[0])
                kept[-1].sendall(send)
            except OSError:
                return
            if hang_up:
                kept[-1].close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    for one in (*kept, listener):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
    thread.join(2)
