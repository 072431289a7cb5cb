"""The README's commands, word for word and in its order, in a copy of the project whose defaults are small."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("app", "conf", "docs", "pyproject.toml")
# Names of runs follow from overrides, so the commands stay as they are, and the defaults in the copy are made small.
SMALL = {
    "conf/training/default.yaml": {
        "epochs": 2, "updates_per_epoch": 3, "max_training_steps_per_env_step": 0.5, "start_training": 40,
        "eval_episodes": 1, "eval_episodes_stochastic": 1, "eval_episodes_other": 1,
    },
    "conf/driving.yaml": {"max_steps": 30},
    "conf/replay/default.yaml": {"capacity": 2000, "batch_size": 8},  # the search goes up to batches of 512
    "conf/hydra/sweeper/optuna.yaml": {"n_trials": 1},
    "conf/validate.yaml": {"top_k": 1, "seeds": "[100]"},
    "conf/play.yaml": {"driver": "reference", "window": "false", "laps": 1},  # nobody is there to drive
}  # fmt: skip


def readme_commands() -> list[str]:
    """Return the lines of the README's shell blocks that call Python, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("python ")]


def small_copy(folder: Path) -> Path:
    """Copy the project with small defaults."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    for name, values in SMALL.items():
        text = (folder / name).read_text(encoding="utf-8")
        for key, value in values.items():
            text, found = re.subn(rf"^{key}: [^#\n]*", f"{key}: {value} ", text, flags=re.MULTILINE)
            assert found == 1, f"{name} has {key} {found} times"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_readme_commands_run_one_after_the_other(tmp_path):
    commands = readme_commands()
    assert len(commands) >= 15
    tree, home = small_copy(tmp_path / "tree"), tmp_path / "home"
    home.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tree, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stdout + done.stderr, command
    assert not list(home.iterdir())


def test_small_copy_changes_what_it_names(tmp_path):
    tree = small_copy(tmp_path / "tree")
    assert "\nupdates_per_epoch: 3 " in (tree / "conf/training/default.yaml").read_text(encoding="utf-8")
