"""Systems that tmrl has no code for."""

import subprocess
import sys

import pytest

from tests.helpers.runs import ROOT

# The libraries below tmrl are imported first: they were built for the system that runs the test.
ON_MACOS = """
import cv2, gymnasium, numpy, pandas, torch, wandb
import platform
platform.system = lambda: "Darwin"
from app.core.tmrl_api import RolloutWorker, TorchTrainingOffline
from app.envs.env_factory import EnvError, make_env
from tests.helpers.make import compose
config = compose("env=trackmania", "role=all", "workers=1")
try:
    make_env(config.env, config.env.train_tracks, 0)
except EnvError as error:
    print(error)
"""


@pytest.mark.e2e
def test_macos_trains_and_says_that_it_cannot_drive_the_game():
    done = subprocess.run([sys.executable, "-c", ON_MACOS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WindowInterface" in done.stdout and "need Windows, or Linux with a display" in " ".join(done.stdout.split())
