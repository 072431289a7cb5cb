"""Trainer and workers in one process, with a clock that advances only as a test wants."""

import threading
import time
from types import SimpleNamespace

import torch
from rich.console import Console

from app.distributed.launcher import connect_to_workers, make_worker
from app.envs.env_factory import make_spec
from app.models.actor import DrivingActor
from tests.helpers.make import compose
from tests.helpers.runs import TINY
from tests.helpers.wire import Wire

SMALL = (*TINY, "role=trainer", "network.password=a secret", "network.max_steps_ahead=0", "network.model_interval_s=0")


class Clock:
    """Clock that advances only by ``advance`` and by ``time.sleep``."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in ("trainer_interface", "worker"):
            monkeypatch.setattr(f"app.distributed.{module}.time.monotonic", lambda: self.now)
        self._thread, self._real_sleep = threading.get_ident(), time.sleep
        monkeypatch.setattr("time.sleep", self._sleep)

    def advance(self, seconds):
        self.now += seconds

    def _sleep(self, seconds):
        """Advance in the thread of the test; threads that other tests have left behind wait as ever."""
        if threading.get_ident() == self._thread:
            self.advance(seconds)
        else:
            self._real_sleep(seconds)


class Net:
    """One trainer and any number of workers on a wire."""

    def __init__(self, monkeypatch, clock):
        self.wire, self.clock, self.monkeypatch = Wire(), clock, monkeypatch
        monkeypatch.setattr("app.distributed.trainer_interface.make_endpoint", self.wire.trainer)
        monkeypatch.setattr("app.distributed.worker.make_endpoint", self.wire.worker)
        self.config = compose(*SMALL)
        self.spec = make_spec(self.config.env)
        self.steps_due = 10
        self.console = Console(record=True, width=200)

    def trainer(self, *overrides):
        config = compose(*SMALL, *overrides)
        demand = SimpleNamespace(step_deficit=lambda: self.steps_due)
        interface, _ = connect_to_workers(config, make_spec(config.env), demand, self.console, lambda: None)
        return interface

    def worker(self, *overrides):
        return make_worker(compose(*SMALL, *overrides), "cpu", self.console, lambda: None)

    def actor(self, seed=0):
        torch.manual_seed(seed)
        return DrivingActor(self.spec.observation_space(), self.spec.action_space(), self.config, self.spec)

    def advance(self, trainer, *workers, collect=True):
        """Let a second pass: everybody sends and does what is due."""
        self.clock.advance(1.0)
        for worker in workers:
            worker.update_actor_weights()
            worker._keep_in_touch()
            if collect and worker._may_collect():
                worker.collect_train_episode()
                worker.send_and_clear_buffer()
        trainer.idle()

    def connect(self, trainer, *workers):
        """Let every worker receive an actor."""
        trainer.send_model(self.actor())
        for _ in range(8):
            self.advance(trainer, *workers, collect=False)
        assert all(worker._actor_version for worker in workers)

    def text(self):
        return self.console.export_text(clear=False)
