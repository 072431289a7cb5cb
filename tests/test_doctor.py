"""The doctor: how checks are run and reported, which roles follow from them, and the command."""

import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from app.diagnostics import game_checks, system_checks
from app.diagnostics.check import Check, Finding, examined_config, run_check
from app.distributed import certificates
from app.distributed.transport import free_port
from tests.helpers.doctor import (
    PASSWORD,
    blockers,
    checkup,
    complete_game,
    config_of,
    finding_of,
    isolate_home,
    playing,
    put_window,
)
from tests.helpers.make import CONF
from tests.helpers.runs import ROOT


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return isolate_home(tmp_path, monkeypatch)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    with complete_game(tmp_path, monkeypatch) as game:
        yield game


@pytest.mark.parametrize("error", [ValueError("odd\nsecond line"), SystemExit(3), KeyboardInterrupt(), LookupError()])
def test_check_that_raises_is_reported_as_broken(error):
    def probe(_):
        raise error

    finding = run_check(Check("it", probe, (), "mend it"), config_of())
    assert (finding.state, finding.remedy) == ("broken", "mend it")
    assert finding.message.startswith(type(error).__name__) and "\n" not in finding.message


def test_hanging_check_is_abandoned_in_time():
    forever = threading.Event()
    finding = run_check(Check("it", lambda _: forever.wait(), (), "mend it", timeout_s=0.1), config_of())
    forever.set()
    assert finding == Finding("broken", "no answer within 0.1 s", "mend it")


def test_output_of_libraries_stays_out_of_the_report(capfd, recwarn, monkeypatch):
    noisy = logging.getLogger("noisy")
    monkeypatch.setattr(noisy, "handlers", [logging.StreamHandler(sys.__stderr__)])
    monkeypatch.setattr(noisy, "propagate", False)

    def probe(_):
        print("banner")
        print("trouble", file=sys.stderr)
        noisy.error("log")
        warnings.warn("warning", stacklevel=1)
        return Finding("ok", "fine")

    assert run_check(Check("it", probe, (), "mend it"), config_of()).state == "ok"
    assert capfd.readouterr() == ("", "") and not recwarn.list
    assert noisy.isEnabledFor(logging.ERROR)  # logging is enabled again


def test_complaint_without_a_remedy_is_refused():
    with pytest.raises(ValueError, match="no remedy"):
        Finding("missing", "it is not there")


def test_other_checks_run_after_a_broken_one(monkeypatch):
    monkeypatch.setattr(system_checks, "_torch", lambda _: 1 / 0)
    ready, page = checkup(config_of("env=sim_lidar"))
    assert not ready and "broken  torch: ZeroDivisionError" in page and "role=local needs is not all there" in page
    assert all(f" {name}" in page for name in ("Python:", "tmrl:", "device:", "replay", "sweeps_dir:", "loopback:"))
    assert "(role=local): no: torch\n" in page


def test_complete_machine_is_ready():
    ready, page = checkup(config_of("env=sim_lidar"))
    assert ready, page
    assert "  can train on env=sim_lidar in one process (role=local): yes\n" in page
    assert "  can be a worker of env=sim_lidar (role=worker): no: network.password\n" in page
    assert "missing" not in page and "broken" not in page  # the run needs no network


def test_complete_game_is_ready(stand_in):
    """Without a role, env=trackmania means role=all."""
    ready, page = checkup(playing(stand_in, PASSWORD, f"network.port={free_port()}"))
    assert ready, page
    assert "missing" not in page and "broken" not in page
    assert "601 points, 60.0 m; a whole lap scores 6.00 (env.return_range=[0,6.00]" in page
    assert "role = local: cannot drive a game" in page and "role=all workers=1 was examined" in page
    assert page.count(": yes\n") == 4 and "role=local)" not in page
    assert page.endswith("What env=trackmania role=all needs is all there.\n")
    assert "a-good-password" not in page


def test_game_is_not_examined_if_the_run_needs_none():
    finding = finding_of("Trackmania", config_of())
    assert finding.state == "note" and "env=trackmania" in finding.remedy
    assert len(game_checks.checks(config_of())) == 1


def test_trainer_and_server_need_no_game(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vgamepad", None)
    put_window(monkeypatch, lambda title: 1 / 0)
    port = free_port()
    overrides = ("env=trackmania", f"env.openplanet.port={port}", f"env.reward_file={tmp_path}/none", PASSWORD)
    ready, page = checkup(config_of(*overrides, "role=server", f"network.port={free_port()}"))
    assert ready, page
    assert "note    reward file" in page and "note    OpenPlanet" in page
    assert "(role=trainer): yes" in page
    assert "reward file, OpenPlanet, gamepad, window" in page.split("(role=worker): no: ")[1]


def test_checkup_leaves_no_trace(tmp_path, stand_in):
    def everything():
        return sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()), sorted(
            str(path) for path in tmp_path.rglob("*")
        )

    certificates.make_keys(tmp_path / "keys")
    before = everything()
    checkup(playing(stand_in, PASSWORD, "network.tls=true", f"network.keys_dir={tmp_path}/keys"))
    assert everything() == before
    assert stand_in.car.respawns == 1  # at the start of the stand-in


def test_checkup_with_restart_clears_nothing(home):
    run = home / "runs" / "droq_contextual-sim_lidar-seed0"
    (run / "replay").mkdir(parents=True)
    (run / "replay" / "row.bin").write_bytes(bytes(10))
    assert checkup(config_of("env=sim_lidar", "+restart=clean"))[0]
    assert (run / "replay" / "row.bin").exists()


def test_narrow_terminal_keeps_words_and_paths_whole(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = {"force_terminal": True, "width": 60, "color_system": None, "legacy_windows": False}
    page = checkup(config_of("env=sim_lidar"), **terminal)[1]
    assert all(len(line) <= 60 or " " not in line.strip() for line in page.splitlines()), page
    words = {word for line in checkup(config_of("env=sim_lidar"))[1].splitlines() for word in line.split()}
    assert {word for word in page.split() if "/" in word} <= words


def test_lines_for_a_pipe_are_not_wrapped():
    page = checkup(config_of("env=sim_lidar", "sweeps_dir=" + "long/" * 60), width=80)[1]
    starts = ("  ok ", "  note", "          ->", "  can ", "What ", "this ", "the ")
    assert all(line.startswith(starts) for line in page.splitlines()), page


def test_doctor_composes_the_configuration_of_the_run():
    def of(name, *overrides):
        with initialize_config_dir(str(CONF)):
            return OmegaConf.to_container(hydra_compose(name, list(overrides)), resolve=True)

    for overrides in ((), ("env=trackmania", "role=worker", "network.port=7"), ("experiment=collapse", "model=droq")):
        assert of("doctor", *overrides) == of("config", *overrides)


def test_broken_rules_are_reported_as_findings():
    config = config_of("log_std_min=3", "replay.batch_size=512", "replay.capacity=300", "training.start_training=100")
    assert finding_of("log_std_min", config).state == finding_of("replay.batch_size", config).state == "broken"
    assert finding_of("log_std_min", config).remedy == "Use log_std_min=-20."
    assert blockers(config, "local") == ("log_std_min", "replay.batch_size")


def test_role_is_blocked_only_by_what_it_needs():
    config = config_of("env=trackmania", PASSWORD)
    gamepad, replay = ("gamepad", ("all", "worker")), ("replay", ("all", "trainer"))
    assert blockers(config, "worker", gamepad, replay) == ("gamepad",)
    assert blockers(config, "trainer", gamepad, replay) == ("replay",)
    assert blockers(config, "server", gamepad, replay) == ()
    assert blockers(config, "all", gamepad, replay) == ("gamepad", "replay")
    assert examined_config(config).workers == 1 and examined_config(config).role == "all"


def test_two_games_on_one_machine_are_refused():
    config = config_of("env=trackmania", "role=all", "workers=2")
    assert examined_config(config) is config and blockers(config, "all") == ("workers",)
    assert blockers(config, "trainer") == ("network.password",)


def run(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run the command after some Python code."""
    call = "runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import runpy, sys; {before}; sys.argv = {['app/doctor.py', *arguments]!r}; {call}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120
    )


def test_help_does_not_import_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "app/doctor.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Checks this machine for a run" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not {"torch", "tmrl", "numpy", "pydantic"} & imported


@pytest.mark.e2e
def test_exit_code_is_0_if_everything_is_there(tmp_path):
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


def test_missing_packages_are_reported_without_a_traceback():
    """Without torch, NumPy and others, the other checks still run."""
    absent = ("torch", "numpy", "gymnasium", "psutil", "cryptography", "msgpack", "tmrl", "cv2")
    before = f"sys.modules.update(dict.fromkeys({absent!r}))"
    done = run("env=trackmania", "role=worker", before=before)
    assert done.returncode == 1 and not done.stderr, done.stderr
    assert "broken  torch: " in done.stdout and "docs/install.md" in done.stdout
    assert "ok      loopback" in done.stdout and "role=worker needs is not all there" in done.stdout


@pytest.mark.parametrize("name", ["hydra", "pydantic", "rich"])
def test_doctor_that_cannot_start_names_the_missing_package(name):
    hide = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == {name!r} else f(n)"
    done = run(before=hide)
    assert done.returncode == 1 and f"package {name} is not installed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["-m", "hydra/sweeper=optuna", "hydra.mode=MULTIRUN"])
def test_sweep_is_refused(word):
    done = run("seed=0,1", word)
    assert done.returncode == 1 and done.stderr == f"The doctor examines a single run: leave out {word}.\n"


def test_wrong_key_is_refused():
    done = run("env.reward_fill=x", "env=trackmania")
    assert done.returncode == 1 and "env.reward_fill: there is no such key" in done.stderr and not done.stdout
