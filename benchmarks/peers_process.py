"""One agent of Stable-Baselines3 or sbx at work, for benchmarks/peers.py and under the Python of their environment.

    python benchmarks/peers_process.py REQUEST

REQUEST is JSON: the ``task``, the ``library`` (sb3 or sbx), the arguments of its SAC (``agent``), the section
``env`` of a configuration, and a ``seed``.

    updates  fills the replay with ``steps`` of random driving; then, for every number of updates that it reads as
             a line of JSON, does them and writes the CPU seconds that they took
    laps     trains for ever and drives ``starts`` after every ``interval`` updates; ``folder`` gets a line of
             metrics.jsonl for each, and before the first step the file that ``ready`` names
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from benchmarks.peers_env import VectorSim, evaluate

FOREVER = 10**9  # environment steps


def make_agent(request: dict[str, Any]) -> OffPolicyAlgorithm:
    """Build the agent on one thread; its attribute ``updates`` counts its updates."""
    torch.set_num_threads(1)
    if request["library"] == "sbx":
        from sbx import SAC  # takes seconds, and the other library does not need it
    else:
        from stable_baselines3 import SAC

    class CountingSAC(SAC):
        updates = 0

        def train(self, gradient_steps: int, batch_size: int) -> None:
            super().train(gradient_steps, batch_size)
            self.updates += gradient_steps

    env = VectorSim(request["env"], request["seed"])
    return CountingSAC("MlpPolicy", env, device="cpu", seed=request["seed"], **request["agent"])


def time_updates(request: dict[str, Any]) -> None:
    """Do the number of updates that each line of standard input contains, and answer with the CPU seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the libraries must not be taken for an answer
    agent = make_agent(request)
    agent.learn(request["steps"], log_interval=None)
    _answer(answers, {"versions": versions()})
    per_call, batch_size = request["agent"]["gradient_steps"], request["agent"]["batch_size"]
    for line in sys.stdin:
        began = time.process_time()
        for _ in range(json.loads(line) // per_call):
            agent.train(per_call, batch_size)
        _answer(answers, {"cpu_s": time.process_time() - began})


def _answer(answers: Any, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def train(request: dict[str, Any]) -> None:
    """Train until this process is ended."""
    folder = Path(request["folder"])
    agent = make_agent(request)
    callback = EvaluateRegularly(request, folder / "metrics.jsonl")
    (folder / request["ready"]).touch()
    agent.learn(FOREVER, callback, log_interval=None)


class EvaluateRegularly(BaseCallback):
    """Evaluates after every ``interval`` updates and appends a line of metrics.

    Args:
        request: Request to this process.
        path: File of the metrics.
    """

    def __init__(self, request: dict[str, Any], path: Path):
        super().__init__()
        self._starts, self._interval, self._path = request["starts"], request["interval"], path
        self._due = self._interval
        self._envs = [VectorSim(request["env"], request["seed"]) for _ in self._starts]

    def _on_step(self) -> bool:
        agent = self.model
        if agent.updates >= self._due:
            self._due = (agent.updates // self._interval + 1) * self._interval
            metrics = evaluate(lambda obs: agent.predict(obs, deterministic=True)[0], self._envs, self._starts)
            line = json.dumps({"updates": agent.updates, "env_steps": self.num_timesteps, **metrics})
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return True


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in ("stable-baselines3", "sbx-rl", "jax", "torch", "gymnasium", "numpy")}


if __name__ == "__main__":
    _request = json.loads(sys.argv[1])
    {"updates": time_updates, "laps": train}[_request["task"]](_request)
