"""The only module that imports tmrl.

Importing tmrl reads ``~/TmrlData/config/config.json`` and downloads it when it is missing, installs a root
logging handler and overwrites ``WANDB_API_KEY``. A user's own folder is used as it is. Without one, a
temporary minimal folder replaces it during the import: every path that this program needs is passed to tmrl
explicitly, and nothing is written into the user's home.
"""

import contextlib
import json
import logging
import os
import platform
import sys
import tempfile
import types
from pathlib import Path

# tmrl 0.7 reads each of these keys at import; their values are defaults that this program always overrides.
_MINIMAL_CONFIG = {
    "__VERSION__": "0.6.0",
    "RUN_NAME": "unused",
    "BUFFERS_MAXLEN": 1_000_000,
    "RW_MAX_SAMPLES_PER_EPISODE": 1_000_000,
    "CUDA_TRAINING": False,
    "CUDA_INFERENCE": False,
    "VIRTUAL_GAMEPAD": True,
    "LOCALHOST_WORKER": True,
    "LOCALHOST_TRAINER": True,
    "PUBLIC_IP_SERVER": "127.0.0.1",
    "ENV": {
        "RTGYM_INTERFACE": "TM20FULL",
        "WINDOW_WIDTH": 256,
        "WINDOW_HEIGHT": 128,
        "IMG_WIDTH": 64,
        "IMG_HEIGHT": 64,
        "IMG_GRAYSCALE": True,
        "SLEEP_TIME_AT_RESET": 1.5,
        "IMG_HIST_LEN": 4,
        "RTGYM_CONFIG": {
            "time_step_duration": 0.05,
            "start_obs_capture": 0.04,
            "time_step_timeout_factor": 1.0,
            "act_buf_len": 2,
            "benchmark": False,
            "wait_on_done": True,
            "ep_max_length": 1000,
            "interface_kwargs": {},
        },
        "REWARD_CONFIG": {
            "END_OF_TRACK": 100.0,
            "CONSTANT_PENALTY": 0.0,
            "CHECK_FORWARD": 500,
            "CHECK_BACKWARD": 10,
            "FAILURE_COUNTDOWN": 10,
            "MIN_STEPS": 70,
            "MAX_STRAY": 100.0,
        },
    },
    "SAVE_MODEL_EVERY": 0,
    "WANDB_PROJECT": "",
    "WANDB_ENTITY": "",
    "WANDB_KEY": "",
    "PORT": 55555,
    "LOCAL_PORT_SERVER": 55556,
    "LOCAL_PORT_TRAINER": 55557,
    "LOCAL_PORT_WORKER": 55558,
    "PASSWORD": "",
    "TLS": False,
    "TLS_HOSTNAME": "default",
    "TLS_CREDENTIALS_DIRECTORY": "",
    "NB_WORKERS": -1,
    "BUFFER_SIZE": 268_435_456,
    "HEADER_SIZE": 12,
    "ALG": {
        "ALGORITHM": "SAC",
        "LEARN_ENTROPY_COEF": True,
        "LR_ACTOR": 1e-5,
        "LR_CRITIC": 5e-5,
        "LR_ENTROPY": 3e-4,
        "GAMMA": 0.995,
        "POLYAK": 0.995,
        "TARGET_ENTROPY": -7.0,
        "ALPHA": 0.37,
        "OPTIMIZER_ACTOR": "adam",
        "OPTIMIZER_CRITIC": "adam",
        "BETAS_ACTOR": [0.9, 0.999],
        "BETAS_CRITIC": [0.9, 0.999],
        "L2_ACTOR": 0.0,
        "L2_CRITIC": 0.0,
        "REDQ_N": 10,
        "REDQ_M": 2,
        "REDQ_Q_UPDATES_PER_POLICY_UPDATE": 20,
    },
    "MAX_EPOCHS": 1,
    "ROUNDS_PER_EPOCH": 1,
    "TRAINING_STEPS_PER_ROUND": 1,
    "MAX_TRAINING_STEPS_PER_ENVIRONMENT_STEP": 1.0,
    "ENVIRONMENT_STEPS_BEFORE_TRAINING": 0,
    "UPDATE_MODEL_INTERVAL": 1,
    "UPDATE_BUFFER_INTERVAL": 1,
    "MEMORY_SIZE": 1,
    "BATCH_SIZE": 1,
    "DEBUG_MODE": False,
}


@contextlib.contextmanager
def _quiet_import():
    """Provide a home folder for tmrl to read while it is imported, and undo its side effects on this process."""
    root = logging.getLogger()
    handlers, level, environment = root.handlers[:], root.level, dict(os.environ)
    with contextlib.ExitStack() as stack:
        if not (Path.home() / "TmrlData" / "config" / "config.json").is_file():
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmrl-import-")))
            config = home / "TmrlData" / "config" / "config.json"
            config.parent.mkdir(parents=True)
            config.write_text(json.dumps(_MINIMAL_CONFIG), encoding="utf-8")
            os.environ.update(HOME=str(home), USERPROFILE=str(home))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            root.handlers[:] = handlers
            root.setLevel(level)


@contextlib.contextmanager
def _window_stand_in():
    """Let tmrl be imported on a system for which it has no window code, such as macOS; the game cannot be driven there.

    tmrl imports its interface to the game's window whenever it is imported, and defines it on Windows and Linux only.
    """
    if platform.system() in ("Windows", "Linux"):
        yield
        return
    name = "tmrl.custom.tm.utils.window"
    stand_in = types.ModuleType(name)
    stand_in.WindowInterface = None
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]  # so that importing it for the game is the error that it should be


with _quiet_import(), _window_stand_in():
    from tmrl.actor import TorchActorModule
    from tmrl.memory import TorchMemory
    from tmrl.networking import Buffer, RolloutWorker, Server, TrainerInterface, iterate_epochs
    from tmrl.training import TrainingAgent
    from tmrl.training_offline import TorchTrainingOffline

__all__ = [
    "Buffer",
    "RolloutWorker",
    "Server",
    "TorchActorModule",
    "TorchMemory",
    "TorchTrainingOffline",
    "TrainerInterface",
    "TrainingAgent",
    "iterate_epochs",
]
