"""The doctor on a stand-in for the game and on a real server; tests bear the name of a bug."""

import dataclasses
import functools
import io
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from rich.console import Console

from app.config.load import validate
from app.config.schema import Config
from app.diagnosis import folders, game, network, packages, program
from app.diagnosis.ability import abilities, asked_for
from app.diagnosis.finding import Check, Finding, examine
from app.diagnosis.report import report
from app.network import certificates
from app.network.codec import HEADER, dumps, loads
from app.network.transport import free_port, make_relay
from tests.game import PACKET, Game, Window, straight
from tests.make import CONF, raw
from tests.runs import ROOT

PASSWORD = "network.password=a-good-password"
SIZE = (958, 488)


def config_of(*overrides: str) -> Config:
    """What the doctor takes: typed, its rules between keys unchecked."""
    return _config_of(overrides, os.environ.get("TRACKMANIA_PASSWORD"))


@functools.cache
def _config_of(overrides: tuple[str, ...], _: str | None) -> Config:
    return validate(raw(*overrides), Config)


def playing(stand_in: Game, *overrides: str, port: int | None = None, reward_file: Path | None = None) -> Config:
    """The same for the stand-in's game; what differs from test to test is not composed anew."""
    config = config_of("env=trackmania", *overrides)
    openplanet = dataclasses.replace(config.env.openplanet, port=port or stand_in.plugin.port)
    files = {"reward_file": str(reward_file or stand_in.reward_file)}
    return dataclasses.replace(config, env=dataclasses.replace(config.env, openplanet=openplanet, **files))


def found(name: str, config: Config, seconds: float | None = None) -> Finding:
    """What one check finds."""
    checks = [check for group in (program, network, game) for check in group.checks(config) if check.name == name]
    assert len(checks) == 1, name
    return examine(checks[0] if seconds is None else dataclasses.replace(checks[0], seconds=seconds), config)


def told(config: Config, **console) -> tuple[bool, str]:
    """The whole report."""
    page = io.StringIO()
    ready = report(config, Console(file=page, highlight=False, **console))
    return ready, page.getvalue()


def lacks(config: Config, role: str, *checks: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What a role lacks where some checks, each needed by some roles, have found nothing."""
    examined = [
        (Check(name, lambda _: None, roles, "mend"), Finding("missing", "none", "mend")) for name, roles in checks
    ]
    return next(ability.lacks for ability in abilities(config, examined) if ability.role == role)


def fake_xdotool(folder, monkeypatch, geometry="WINDOW=7\nX=1\nY=2\nWIDTH=800\nHEIGHT=600\nSCREEN=0"):
    """A display and an xdotool in front of all others."""
    folder.mkdir()
    program = folder / "xdotool"
    program.write_text(f"#!/bin/sh\ncat <<END\n{geometry}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")


def put_window(monkeypatch, make) -> None:
    import app.envs.trackmania.interface as interface

    monkeypatch.setattr(interface, "WindowInterface", make)


@contextmanager
def listening(send: bytes, hang_up: bool = False):
    """A server that sends some bytes to everybody; yields its port."""
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


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home and a working folder of one's own, without a password."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("TRACKMANIA_PASSWORD", raising=False)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Everything that the game needs."""
    folder = tmp_path / "game"
    folder.mkdir()
    stand_in = Game(folder, metres=60.0)
    stand_in.install(monkeypatch.setattr)
    put_window(monkeypatch, lambda title: Window(title, stand_in.car, SIZE))
    fake_xdotool(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(game.platform, "system", lambda: "Linux")
    yield stand_in
    stand_in.stop()


# --- how checks are made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("odd\nsecond line"), SystemExit(3), KeyboardInterrupt(), LookupError()])
def test_a_check_that_raises_ends_the_doctor(error):
    def look(_):
        raise error

    finding = examine(Check("it", look, (), "mend it"), config_of())
    assert (finding.state, finding.remedy) == ("broken", "mend it")
    assert finding.found.startswith(type(error).__name__) and "\n" not in finding.found


def test_a_check_that_hangs_holds_the_doctor_up():
    forever = threading.Event()
    finding = examine(Check("it", lambda _: forever.wait(), (), "mend it", seconds=0.1), config_of())
    forever.set()
    assert finding == Finding("broken", "no answer within 0.1 s", "mend it")


def test_libraries_speak_into_the_report(capfd, recwarn, monkeypatch):
    noisy = logging.getLogger("noisy")
    monkeypatch.setattr(noisy, "handlers", [logging.StreamHandler(sys.__stderr__)])
    monkeypatch.setattr(noisy, "propagate", False)

    def look(_):
        print("banner")
        print("trouble", file=sys.stderr)
        noisy.error("log")
        warnings.warn("warning", stacklevel=1)
        return Finding("ok", "fine")

    assert examine(Check("it", look, (), "mend it"), config_of()).state == "ok"
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert noisy.isEnabledFor(logging.ERROR)  # and is as it was


def test_a_complaint_has_no_remedy():
    with pytest.raises(ValueError, match="no remedy"):
        Finding("missing", "it is not there")


def test_one_broken_check_hides_the_others(monkeypatch):
    monkeypatch.setattr(program, "_torch", lambda _: 1 / 0)
    ready, page = told(config_of("env=sim_lidar"))
    assert not ready and "broken  torch: ZeroDivisionError" in page and "role=local needs is not all there" in page
    assert all(f" {name}" in page for name in ("Python:", "tmrl:", "device:", "replay", "sweeps_dir:", "loopback:"))
    assert "(role=local): no: torch\n" in page


# --- the whole -------------------------------------------------------------------------------------------


def test_a_sound_machine_is_not_ready():
    ready, page = told(config_of("env=sim_lidar"))
    assert ready, page
    assert "  can train on env=sim_lidar in one process (role=local): yes\n" in page
    assert "  can be a worker of env=sim_lidar (role=worker): no: network.password\n" in page
    assert "missing" not in page and "broken" not in page  # nobody asked for the network


def test_a_complete_game_is_not_ready(stand_in):
    """Asked without a role, as the messages elsewhere say, it means everything on this machine."""
    ready, page = told(playing(stand_in, PASSWORD, f"network.port={free_port()}"))
    assert ready, page
    assert "missing" not in page and "broken" not in page
    assert "601 points, 60.0 m; a whole lap scores 6.00 (env.return_range=[0,6.00]" in page
    assert "role = local: cannot drive a game" in page and "role=all workers=1 was examined" in page
    assert page.count(": yes\n") == 4 and "role=local)" not in page
    assert page.endswith("What env=trackmania role=all needs is all there.\n")
    assert "a-good-password" not in page


def test_the_game_is_looked_for_where_none_is_needed():
    finding = found("Trackmania", config_of())
    assert finding.state == "note" and "env=trackmania" in finding.remedy
    assert len(game.checks(config_of())) == 1


def test_a_trainer_or_server_needs_the_game(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vgamepad", None)
    put_window(monkeypatch, lambda title: 1 / 0)
    port = free_port()
    overrides = ("env=trackmania", f"env.openplanet.port={port}", f"env.reward_file={tmp_path}/none", PASSWORD)
    ready, page = told(config_of(*overrides, "role=server", f"network.port={free_port()}"))
    assert ready, page
    assert "note    reward file" in page and "note    OpenPlanet" in page
    assert "(role=trainer): yes" in page
    assert "reward file, OpenPlanet, gamepad, window" in page.split("(role=worker): no: ")[1]


def test_looking_leaves_something_behind(tmp_path, stand_in):
    def everything():
        return sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()), sorted(
            str(path) for path in tmp_path.rglob("*")
        )

    certificates.make_keys(tmp_path / "keys")
    before = everything()
    told(playing(stand_in, PASSWORD, "network.tls=true", f"network.keys_dir={tmp_path}/keys"))
    assert everything() == before
    assert stand_in.car.respawns == 1  # its own beginning


def test_a_restart_clears_while_the_doctor_looks(home):
    run = home / "runs" / "droq_contextual-sim_lidar-seed0"
    (run / "replay").mkdir(parents=True)
    (run / "replay" / "row.bin").write_bytes(bytes(10))
    assert told(config_of("env=sim_lidar", "+restart=clean"))[0]
    assert (run / "replay" / "row.bin").exists()


def test_a_narrow_terminal_cuts_words_or_paths(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    page = told(config_of("env=sim_lidar"), force_terminal=True, width=60, color_system=None, legacy_windows=False)[1]
    assert all(len(line) <= 60 or " " not in line.strip() for line in page.splitlines()), page
    words = {word for line in told(config_of("env=sim_lidar"))[1].splitlines() for word in line.split()}
    assert {word for word in page.split() if "/" in word} <= words


def test_a_pipe_gets_broken_lines():
    page = told(config_of("env=sim_lidar", "sweeps_dir=" + "long/" * 60), width=80)[1]
    starts = ("  ok ", "  note", "          ->", "  can ", "What ", "this ", "the ")
    assert all(line.startswith(starts) for line in page.splitlines()), page


def test_the_doctor_examines_another_configuration_than_the_run():
    def of(name, *overrides):
        with initialize_config_dir(str(CONF)):
            return OmegaConf.to_container(hydra_compose(name, list(overrides)), resolve=True)

    for overrides in ((), ("env=trackmania", "role=worker", "network.port=7"), ("experiment=collapse", "model=droq")):
        assert of("doctor", *overrides) == of("config", *overrides)


# --- what follows ----------------------------------------------------------------------------------------


def test_a_broken_rule_refuses_to_be_examined():
    config = config_of("log_std_min=3", "replay.batch_size=512", "replay.capacity=300", "training.start_training=100")
    assert found("log_std_min", config).state == found("replay.batch_size", config).state == "broken"
    assert found("log_std_min", config).remedy == "Use log_std_min=-20."
    assert lacks(config, "local") == ("log_std_min", "replay.batch_size")


def test_a_part_lacks_what_another_needs():
    config = config_of("env=trackmania", PASSWORD)
    gamepad, replay = ("gamepad", ("all", "worker")), ("replay", ("all", "trainer"))
    assert lacks(config, "worker", gamepad, replay) == ("gamepad",)
    assert lacks(config, "trainer", gamepad, replay) == ("replay",)
    assert lacks(config, "server", gamepad, replay) == ()
    assert lacks(config, "all", gamepad, replay) == ("gamepad", "replay")
    assert asked_for(config).workers == 1 and asked_for(config).role == "all"


def test_two_games_on_a_machine_are_possible():
    config = config_of("env=trackmania", "role=all", "workers=2")
    assert asked_for(config) is config and lacks(config, "all") == ("workers",)
    assert lacks(config, "trainer") == ("network.password",)


# --- this program ----------------------------------------------------------------------------------------


def test_a_missing_package_is_not_found(monkeypatch):
    assert packages.lacking(Requirement("gymnasium[box2d]>=1.1")) == []
    assert packages.lacking(Requirement("no-such-package>=1")) == ["no-such-package is not installed"]
    assert packages.lacking(Requirement("numpy>=1000")) == [f"numpy is {np.__version__}, not >=1000"]
    assert found("packages", config_of()).state == "ok"
    true = packages.metadata.version

    def version(name):
        if name.lower() == "box2d":  # of an extra of a package of ours
            raise packages.metadata.PackageNotFoundError(name)
        return {"rich": "1.0"}.get(name) or true(name)

    monkeypatch.setattr(packages.metadata, "version", version)
    finding = found("packages", config_of())
    assert finding.state == "missing" and "pip install -c constraints.txt" in finding.remedy
    assert "ox2" in finding.found and "is not installed" in finding.found and "rich is 1.0, not >=13" in finding.found


def test_a_missing_extra_is_an_error(monkeypatch):
    monkeypatch.setattr(
        packages.metadata, "requires", lambda _: ["numpy", 'no-such>=2; extra == "board"', 'rich; extra == "b"']
    )

    class Headers(dict):
        def get_all(self, name):
            return ["board", "b"]

    monkeypatch.setattr(packages.metadata, "metadata", lambda _: Headers({"Requires-Python": ">=99"}))
    finding = found("extras", config_of())
    assert finding.state == "note" and finding.found.endswith(": board (no-such is not installed)")
    assert found("packages", config_of()).state == "ok"
    assert found("Python", config_of()).state == "broken"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_missed(monkeypatch):
    finding = found("device", config_of("device=cuda:1"))
    assert finding.state == "missing" and "device=cpu" in finding.remedy
    monkeypatch.setattr(program.shutil, "which", lambda _: None)
    monkeypatch.setattr(program.Path, "exists", lambda _: False)
    assert found("device", config_of()).state == "ok"
    monkeypatch.setattr(program.shutil, "which", lambda name: f"/usr/bin/{name}")  # a driver, and a torch without CUDA
    assert found("device", config_of()).state == "note"
    assert found("device", config_of("device=cpu")).state == "ok"


def test_a_gpu_is_not_named_or_not_tried(monkeypatch):
    """On a stand-in: a tensor of the CPU that says that it is one of a GPU."""
    monkeypatch.setattr("app.training.setup.choose_device", lambda _: "cpu:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000_000_000, 8_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GeForce")
    finding = found("device", config_of())
    assert finding == Finding("ok", "cpu:0 is a GeForce with 8.0 GB of memory, 3.0 GB free")
    monkeypatch.setattr(torch, "arange", lambda *_, device: torch.zeros(8))
    assert found("device", config_of()).state == "broken"


def test_more_threads_than_cores_are_praised(monkeypatch):
    monkeypatch.setattr(program, "usable_cores", lambda: 4)
    assert found("cores", config_of("threads=4")).state == "ok"
    assert found("cores", config_of("threads=5")).state == "note"


@pytest.mark.parametrize("env", ["env=gym env.id=Pendulum-v1", "env=car_racing", "env=sim"])
def test_an_environment_that_works_is_missed(env):
    assert found("environment", config_of("model=mlp", *env.split())).state == "ok"


def test_a_misspelt_task_is_found_when_the_run_starts():
    config = config_of("model=mlp", "env=gym", "env.id=Pandulum-v1")
    assert found("environment", config).state == "broken" and "Pandulum" in found("environment", config).found
    assert found("replay", config).state == "missing"


def test_a_replay_that_does_not_fit_is_found_when_the_run_starts(monkeypatch):
    finding = found("replay", config_of("replay.capacity=100000000000"))
    assert finding.state == "missing" and "would fit" in finding.remedy and "of memory" in finding.found
    assert found("replay", config_of()).state == "ok"
    small = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(program.shutil, "disk_usage", lambda _: small)
    finding = found("replay", config_of())
    assert finding.state == "missing" and "1.0 kB of the disk" in finding.found and "runs_dir=" in finding.remedy


def test_the_replay_that_is_there_already_needs_its_room_again(home, monkeypatch):
    replay = home / "runs" / "droq_contextual-sim_lidar-seed0" / "replay"
    replay.mkdir(parents=True)
    monkeypatch.setattr(program.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    config = config_of("env=sim_lidar", "replay.capacity=2000", "replay.batch_size=64", "training.start_training=100")
    assert found("replay", config).state == "missing"
    (replay / "x.bin").write_bytes(bytes(10_000_000))
    assert found("replay", config).state == "ok"
    assert folders.occupied(home / "none") == 0


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling", "forbidden"])
def test_a_folder_that_cannot_be_written_is_fine(home, kind, monkeypatch):
    place = home / "place"
    if kind == "dangling":
        place.symlink_to(home / "gone")
    elif kind == "forbidden":
        place.mkdir()

        def refuse(dir):
            raise PermissionError(13, "Permission denied", str(dir))

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    else:
        place.write_text("")
    folder = place / "runs" if kind == "below a file" else place
    finding = found("runs_dir", config_of(f"runs_dir={folder}"))
    assert finding.state == "broken" and str(place) in finding.found and "runs_dir=" in finding.remedy
    assert ("Permission denied" in finding.found) == (kind == "forbidden")


def test_a_folder_that_can_be_made_is_missed_or_made(home):
    for folder in ("new/runs", str(home / "other"), "."):
        finding = found("runs_dir", config_of(f"runs_dir={folder}"))
        assert finding.state == "ok" and "free" in finding.found
    assert list(home.iterdir()) == []


# --- the network -----------------------------------------------------------------------------------------


def test_a_missing_password_refuses_to_be_examined(monkeypatch):
    for role, state in (("local", "missing"), ("worker", "missing"), ("server", "missing")):
        finding = found("network.password", config_of(f"role={role}"))
        assert finding.state == state and "TRACKMANIA_PASSWORD" in finding.remedy
    assert found("network.password", config_of("role=server", "network.password=short")).state == "broken"
    monkeypatch.setenv("TRACKMANIA_PASSWORD", "of-a-good-length")
    finding = found("network.password", config_of("role=worker"))
    assert finding == Finding("ok", "has 16 characters")


def test_loopback_is_not_tried(monkeypatch):
    assert found("loopback", config_of()).state == "ok"
    refuse = ConnectionRefusedError(111, "Connection refused")
    monkeypatch.setattr(network.socket, "create_connection", lambda *_: (_ for _ in ()).throw(refuse))
    assert found("loopback", config_of()).state == "broken"


def test_a_taken_port_is_free(monkeypatch):
    role = ("role=server", PASSWORD)
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        finding = found("network.port", config_of(*role, f"network.port={port}"))
        assert finding.state == "missing" and "does not greet" in finding.found
        assert f"pid {os.getpid()}" in finding.found
    assert found("network.port", config_of(*role, f"network.port={port}")).state == "ok"
    assert found("network.port", config_of(*role, "network.bind=203.0.113.7")).state == "missing"


def test_somebody_who_says_nothing_or_nonsense_is_a_server(monkeypatch):
    monkeypatch.setattr("app.diagnosis.greeting.PROBE_S", 0.2)
    for words in (b"", b"99999999", b"5       \xc1\xc1\xc1\xc1\xc1", b"-1      ", b"3       \x93\x01\x02"):
        with listening(words) as port:
            finding = found("server", config_of("role=worker", PASSWORD, f"network.port={port}"))
            assert finding.state == "broken" and "does not greet" in finding.found, words
    finding = found("server", config_of("role=worker", PASSWORD, f"network.port={port}"))
    assert finding.state == "missing" and "nobody answers" in finding.found and "role=server" in finding.remedy


def test_somebody_who_hangs_up_on_tls_is_not_there(tmp_path):
    certificates.make_keys(tmp_path / "keys")
    with listening(b"", hang_up=True) as port:
        tls = ("network.tls=true", f"network.keys_dir={tmp_path}/keys", f"network.port={port}")
        finding = found("server", config_of("role=worker", PASSWORD, *tls))
    assert finding.state == "broken" and "TLS fails" in finding.found


@contextmanager
def serving(config: Config, ask):
    """A server as role=server has it; yields what ``ask`` finds as soon as it answers."""
    relay = make_relay(config.network)
    try:
        deadline = time.monotonic() + 60
        while "a server of this project" not in (finding := ask()).found and time.monotonic() < deadline:
            time.sleep(0.1)
        yield finding
    finally:
        relay._p.kill()  # it would wait for the acknowledgements of strangers
        relay._p.join()
        relay._local_com_conn.close()
        relay._local_com_srv.close()
        relay._stopped = True


def test_a_server_that_is_there_is_not_recognised(tmp_path, monkeypatch):
    config = config_of("role=server", PASSWORD, f"network.port={free_port()}")
    with serving(config, lambda: found("network.port", config)) as finding:
        assert finding.state == "missing" and "a server of this project answers there" in finding.found
        asking = ("role=worker", f"network.port={config.network.port}")
        finding = found("server", config_of(*asking, PASSWORD))
        assert finding.state == "ok" and "takes the password" in finding.found
        assert found("server", config_of(*asking)).state == "ok"  # nothing to compare; the password is told elsewhere
        monkeypatch.setattr("app.diagnosis.greeting.PROBE_S", 0.5)
        for other in ("another-password", "sh-passw"):  # of other lengths, too
            finding = found("server", config_of(*asking, f"network.password={other}"))
            assert finding.state == "broken" and "another password" in finding.found
        certificates.make_keys(tmp_path / "keys")
        tls = ("network.tls=true", f"network.keys_dir={tmp_path}/keys")
        finding = found("server", config_of(*asking, PASSWORD, *tls))
        assert finding.state == "broken" and "TLS fails" in finding.found


def test_the_doctor_holds_up_the_end_of_a_server():
    """What it does not acknowledge, tlspyo waits for; what it has acknowledged with the password, it does not."""
    told_to, asked = threading.Event(), []

    def serve(listener):
        with listener.accept()[0] as line:
            greeting = dumps((41, "HELLO", None))
            line.sendall(f"{len(greeting):<{HEADER}}".encode() + greeting)
            asked.append(line.recv(1000))
            told_to.wait(5)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        config = config_of("role=worker", PASSWORD, f"network.port={listener.getsockname()[1]}")
        examine(dataclasses.replace(network.checks(config)[-1], seconds=0.5), config)
        told_to.set()
        thread.join(5)
    size = int(asked[0][:HEADER])
    assert asked[0][HEADER:].startswith(b"a-good-password")
    assert loads(asked[0][HEADER + 15 : HEADER + 15 + size]) == (41, "ACK", None, None)


def test_a_server_with_other_keys_is_trusted(tmp_path):
    for name in ("keys", "others"):
        certificates.make_keys(tmp_path / name)
    tls = (PASSWORD, f"network.port={free_port()}", "network.tls=true")
    trainer = ("role=trainer", *tls)
    with serving(
        config_of("role=server", *tls, f"network.keys_dir={tmp_path}/keys"),
        lambda: found("server", config_of(*trainer, f"network.keys_dir={tmp_path}/keys")),
    ) as finding:
        assert finding.state == "ok" and "takes the password" in finding.found
        finding = found("server", config_of(*trainer, f"network.keys_dir={tmp_path}/others"))
        assert finding.state == "broken" and "TLS fails" in finding.found and "make_keys" in finding.remedy
        finding = found("server", config_of(*trainer, f"network.keys_dir={tmp_path}/none"))
        assert finding.state == "missing" and "not asked" in finding.found


def test_a_password_is_shown_to_everybody_on_the_way(monkeypatch):
    """Beyond this machine and without TLS a run refuses to start: nothing is told there either."""
    import app.diagnosis.greeting as greeting

    asked = []
    monkeypatch.setattr(greeting, "ask", lambda *words: asked.append(words) or greeting.Answer.SERVER)
    config = config_of("role=worker", PASSWORD, "network.host=192.0.2.1")
    assert found("server", config).found.endswith("answers") and asked[0][2] is None
    assert found("network.host", config).state == "broken"
    found("server", config_of("role=worker", PASSWORD))
    assert asked[1][2] == "a-good-password"


def test_keys_that_do_not_work_are_fine(tmp_path, monkeypatch):
    tls = ("network.tls=true", f"network.keys_dir={tmp_path}/keys", "role=all")
    assert found("server keys", config_of(*tls)).state == "missing"
    server, client = certificates.make_keys(tmp_path / "keys")
    assert found("server keys", config_of(*tls)).state == found("client keys", config_of(*tls)).state == "ok"
    assert "valid from" in found("client keys", config_of(*tls)).found
    (client / "key.pem").chmod(0o644)
    assert found("client keys", config_of(*tls)).state == "note"
    (client / "key.pem").write_bytes((server / "key.pem").read_bytes())
    assert "does not belong" in found("client keys", config_of(*tls)).found
    (client / "key.pem").write_text("damaged")
    assert found("client keys", config_of(*tls)).state == "broken"
    other, _ = certificates.make_keys(tmp_path / "others")
    (server / "authority.pem").write_bytes((other / "authority.pem").read_bytes())
    assert "is not signed by" in found("server keys", config_of(*tls)).found
    for days, state, words in ((0.0, "broken", "too old"), (0.05, "note", "days are left")):
        monkeypatch.setattr(certificates, "_YEARS", days)
        certificates.make_keys(tmp_path / state)
        finding = found("server keys", config_of("network.tls=true", f"network.keys_dir={tmp_path}/{state}"))
        assert finding.state == state and words in finding.found
    assert found("keys", config_of()).state == "ok"


# --- the game --------------------------------------------------------------------------------------------


def test_a_missing_trajectory_is_not_found(tmp_path, stand_in):
    finding = found("reward file", playing(stand_in, reward_file=tmp_path / "none.pkl"))
    assert finding.state == "missing" and "none.pkl" in finding.found and "--record-reward" in finding.remedy
    (tmp_path / "short.pkl").write_bytes(pickle.dumps(straight(5.0)))
    finding = found("reward file", playing(stand_in, reward_file=tmp_path / "short.pkl"))
    assert finding.state == "broken" and "51 points" in finding.found


def test_a_hostile_reward_file_runs(tmp_path, stand_in):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    stand_in.reward_file.write_bytes(pickle.dumps(Bomb()))
    config = playing(stand_in)
    finding = found("reward file", config)
    assert finding.state == "broken" and "no array of numbers" in finding.found
    assert found("OpenPlanet", config).state == "ok"  # reads it, too
    assert not (tmp_path / "canary").exists()


def test_a_wrong_range_of_returns_is_taken(stand_in):
    for given, state in (("[0,6]", "ok"), ("[0,30]", "note")):
        finding = found("reward file", playing(stand_in, f"env.return_range={given}"))
        assert finding.state == state
    assert "env.return_range=[0,6.00]" in finding.remedy
    finding = found("reward file", playing(stand_in, "env.reward.finish=10"))
    assert "scores 16.00" in finding.found


def test_a_game_that_is_not_there_answers(stand_in):
    finding = found("OpenPlanet", playing(stand_in, port=free_port()))
    assert finding.state == "missing" and "nobody answers" in finding.found and "TMRL_GrabData" in finding.remedy


@pytest.mark.parametrize(
    "words, hang_up",
    [(b"", False), (bytes(43), True), (PACKET.pack(*[float("nan")] * 11), False), (b"SSH-2.0-OpenSSH" * 3, False)],
)
def test_somebody_else_is_taken_for_the_game(stand_in, words, hang_up):
    with listening(words, hang_up) as port:
        finding = found(
            "OpenPlanet",
            playing(stand_in, "env.openplanet.timeout_s=0.3", port=port),
        )
    assert finding.state == "broken" and f":{port}" in finding.found


def test_a_silent_game_hangs_the_doctor(stand_in):
    stand_in.plugin.silent = True
    finding = found("OpenPlanet", playing(stand_in, "env.openplanet.timeout_s=0.3"))
    assert finding.state == "broken" and "no whole packet within 0.3 s" in finding.found


def test_the_wrong_map_is_driven(stand_in):
    stand_in.car.along = 20.0
    finding = found("OpenPlanet", playing(stand_in))
    assert finding.state == "ok" and "at (20.0, 10.0, 0.0) m" in finding.found
    stand_in.reward_file.write_bytes(pickle.dumps(straight(60.0) + 1000.0))
    finding = found("OpenPlanet", playing(stand_in))
    assert finding.state == "note" and "from the recorded trajectory" in finding.found


def test_a_gamepad_that_cannot_be_made_is_there(stand_in, monkeypatch):
    config = playing(stand_in)
    assert found("gamepad", config).state == "ok" and len(stand_in.gamepads) == 1

    def fail():
        raise OSError("no driver")

    monkeypatch.setattr(sys.modules["vgamepad"], "VX360Gamepad", fail)
    finding = found("gamepad", config)
    assert finding.state == "broken" and finding.found == "OSError: no driver" and finding.remedy
    monkeypatch.setitem(sys.modules, "vgamepad", None)
    finding = found("gamepad", config)
    assert finding.state == "broken" and "docs/install.md" in finding.remedy


def test_a_driver_that_hangs_hangs_the_doctor(stand_in, monkeypatch):
    forever = threading.Event()
    monkeypatch.setattr(sys.modules["vgamepad"], "VX360Gamepad", forever.wait)
    assert found("gamepad", playing(stand_in), seconds=0.2).found == "no answer within 0.2 s"
    forever.set()


@pytest.mark.parametrize(
    "system, library, there, words",
    [
        ("Windows", True, True, "ViGEmBus"), ("Darwin", True, True, "no virtual gamepad"),
        ("Linux", False, True, "libevdev2"), ("Linux", True, False, "modprobe uinput"),
        ("Linux", True, True, "99-uinput.rules"),
    ],
)  # fmt: skip
def test_the_remedy_for_the_gamepad_is_that_of_another_system(monkeypatch, system, library, there, words):
    def load(name):
        if not library:
            raise OSError(name)

    config = config_of("env=trackmania")
    monkeypatch.setattr(game.platform, "system", lambda: system)
    monkeypatch.setattr(game.ctypes, "CDLL", load)
    monkeypatch.setattr(game.os.path, "exists", lambda _: there)
    monkeypatch.setattr(game.os, "access", lambda *_: False)
    assert words in next(check.remedy for check in game.checks(config) if check.name == "gamepad")


def test_a_window_that_is_not_there_is_found(stand_in, monkeypatch):
    def fail(title):
        raise AssertionError(f"Could not find a window named {title}.")  # tmrl on Windows

    class NotFound:  # tmrl on Linux
        window_id = None

        def __init__(self, title):
            pass

    for make, state in ((fail, "broken"), (NotFound, "missing")):
        put_window(monkeypatch, make)
        finding = found("window", playing(stand_in))
        assert finding.state == state and "Trackmania" in finding.found and "game_window.title" in finding.remedy


def test_a_window_of_another_size_is_not_told_or_is_resized(stand_in, monkeypatch):
    assert found("window", playing(stand_in)).state == "ok"
    made = []

    def small(title):
        made.append(Window(title, stand_in.car, (640, 480)))
        made[-1].move_and_resize = None  # would move a person's window
        return made[-1]

    put_window(monkeypatch, small)
    finding = found("window", playing(stand_in))
    assert finding.state == "note" and "640 × 480" in finding.found and "958 × 488" in finding.found

    class OnLinux:
        window_id = "7"

        def __init__(self, title):
            pass

    put_window(monkeypatch, OnLinux)
    assert "800 × 600" in found("window", playing(stand_in)).found  # as xdotool says


def test_a_system_without_a_display_can_play(stand_in, monkeypatch):
    config = playing(stand_in)
    assert found("system", config).state == "ok"
    monkeypatch.setattr(game.shutil, "which", lambda _: None)
    assert "xdotool" in found("system", config).remedy
    monkeypatch.delenv("DISPLAY")
    assert found("system", config).state == "missing" and "DISPLAY" in found("system", config).found
    for system, state in (("Windows", "ok"), ("Darwin", "broken")):
        monkeypatch.setattr(game.platform, "system", lambda system=system: system)
        assert found("system", config).state == state


@pytest.mark.parametrize(
    "content, state",
    [
        (None, "note"), ("", "note"), ("{", "broken"), ("[]", "broken"), ("{}", "broken"),
        ('{"__VERSION__": 3}', "broken"), ('{"__VERSION__": "0.5.9"}', "broken"), ('{"__VERSION__": "0.6.0"}', "ok"),
    ],
)  # fmt: skip
def test_a_damaged_tmrl_data_folder_is_made_or_mended(home, content, state):
    file = home / "TmrlData" / "config" / "config.json"
    if content is not None:
        file.parent.mkdir(parents=True)
    if content:
        file.write_text(content)
    config = config_of("env=trackmania")
    assert found("TmrlData", config).state == state
    assert (home / "TmrlData").exists() == (content is not None)
    assert not content or file.read_text() == content
    if content and state == "broken":  # tmrl reads it whenever it is imported
        remedy = next(check.remedy for check in program.checks(config) if check.name == "tmrl")
        assert str(file) in remedy


# --- the command -----------------------------------------------------------------------------------------


def run(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """The command, as a person calls it, after something was done to Python."""
    call = "runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import runpy, sys; {before}; sys.argv = {['app/doctor.py', *arguments]!r}; {call}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120
    )


def test_help_waits_for_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "app/doctor.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "what this machine can do" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not {"torch", "tmrl", "numpy", "pydantic"} & imported


def test_the_exit_code_is_the_same_whatever_is_found(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "app/doctor.py",
            "env=sim_lidar",
            f"runs_dir={tmp_path}/runs",
            f"sweeps_dir={tmp_path}/sweeps",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "role=local needs is all there" in done.stdout, done.stdout + done.stderr
    assert not done.stderr and not (tmp_path / "runs").exists()


def test_missing_packages_end_the_doctor_with_a_traceback():
    """Without torch, NumPy and others it still says what else there is."""
    absent = ("torch", "numpy", "gymnasium", "psutil", "cryptography", "msgpack", "tmrl", "cv2")
    before = f"sys.modules.update(dict.fromkeys({absent!r}))"
    done = run("env=trackmania", "role=worker", before=before)
    assert done.returncode == 1 and not done.stderr, done.stderr
    assert "broken  torch: " in done.stdout and "docs/install.md" in done.stdout
    assert "ok      loopback" in done.stdout and "role=worker needs is not all there" in done.stdout


@pytest.mark.parametrize("name", ["hydra", "pydantic", "rich"])
def test_a_doctor_that_cannot_start_shows_a_traceback(name):
    hide = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == {name!r} else f(n)"
    done = run(before=hide)
    assert done.returncode == 1 and f"package {name} is not installed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["-m", "hydra/sweeper=optuna", "hydra.mode=MULTIRUN"])
def test_a_sweep_is_examined_and_leaves_its_folder(word):
    done = run("seed=0,1", word)
    assert done.returncode == 1 and done.stderr == f"The doctor examines a single run: leave out {word}.\n"


def test_a_wrong_key_is_taken():
    done = run("env.reward_fill=x", "env=trackmania")
    assert done.returncode == 1 and "env.reward_fill: there is no such key" in done.stderr and not done.stdout
