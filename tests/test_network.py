"""Trainer and workers over a wire in one process: what is said, what is kept, what is refused."""

import dataclasses
import pickle
import zlib

import numpy as np
import pytest
import torch
from rich.console import Console

from app.config import checks
from app.envs.factory import make_spec
from app.errors import UserError
from app.models.actor import DrivingActor
from app.network import certificates
from app.network.codec import LARGEST, dumps, loads
from app.network.interface import NetworkInterface
from app.network.ledger import Ledger, shares
from app.network.messages import (
    Hello,
    MessageError,
    Note,
    Result,
    Steps,
    Weights,
    from_plain,
    pack_steps,
    pack_weights,
    to_plain,
    unpack_steps,
    unpack_weights,
)
from app.network.worker import NetworkWorker
from app.replay.compress import SampleCompressor
from app.training.evaluation import Start, episode_of
from tests.make import compose
from tests.runs import TINY
from tests.wire import Wire

SMALL = (*TINY, "role=trainer", "network.password=a secret", "network.lead=0", "network.model_interval_s=0")
IMAGES = ("env.images=true", "env.image_size=16")


class Clock:
    """Time that passes only when told, or when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in ("interface", "worker"):
            monkeypatch.setattr(f"app.network.{module}.time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.pass_)

    def pass_(self, seconds):
        self.now += seconds


class Net:
    """One trainer and any number of workers on a wire."""

    def __init__(self, monkeypatch, clock):
        self.wire, self.clock, self.monkeypatch = Wire(), clock, monkeypatch
        monkeypatch.setattr("app.network.interface.make_endpoint", self.wire.trainer)
        monkeypatch.setattr("app.network.worker.make_endpoint", self.wire.worker)
        self.config = compose(*SMALL)
        self.spec = make_spec(self.config.env)
        self.due, self.said = 10, []
        self.console = Console(record=True, width=200)

    def trainer(self, *overrides):
        config = compose(*SMALL, *overrides)
        return NetworkInterface(config, make_spec(config.env), lambda: self.due, self.console, lambda: None)

    def worker(self, *overrides):
        config = compose(*SMALL, *overrides)
        return NetworkWorker(config, make_spec(config.env), "cpu", self.console, lambda: None)

    def actor(self, seed=0):
        torch.manual_seed(seed)
        return DrivingActor(self.spec.space(), self.spec.action_space(), self.config, self.spec)

    def turn(self, trainer, *workers, drive=True):
        """A second passes: everybody says and does what is due."""
        self.clock.pass_(1.0)
        for worker in workers:
            worker.update_actor_weights()
            worker._keep_in_touch()
            if drive and worker._may_drive():
                worker.collect_train_episode()
                worker.send_and_clear_buffer()
        trainer.idle()

    def meet(self, trainer, *workers):
        """Until every worker has an actor."""
        trainer.send_model(self.actor())
        for _ in range(8):
            self.turn(trainer, *workers, drive=False)
        assert all(worker._version for worker in workers)

    def text(self):
        return self.console.export_text(clear=False)


@pytest.fixture
def net(monkeypatch):
    return Net(monkeypatch, Clock(monkeypatch))


def drain(trainer):
    """Take all rows there are, as the loop does; the last buffer may be cut anywhere."""
    rows = []
    while buffer := trainer.retrieve_buffer().memory:
        assert len(buffer) <= 20
        rows += buffer
    return rows


def episodes(rows):
    """Split rows at the resets."""
    starts = [i for i, row in enumerate(rows) if row[0] is None] + [len(rows)]
    return [rows[a:b] for a, b in zip(starts, starts[1:], strict=False)]


def same_rows(ours, theirs):
    return len(ours) == len(theirs) and all(
        (a[0] is b[0] is None or np.array_equal(a[0], b[0]))
        and np.array_equal(a[1]["sensors"], b[1]["sensors"])
        and np.array_equal(a[1]["frame"], b[1]["frame"])
        and np.float32(a[2]) == np.float32(b[2])
        and a[3:5] == b[3:5]
        for a, b in zip(ours, theirs, strict=True)
    )


def random_episode(spec, length, seed=0):
    rng = np.random.default_rng(seed)
    steps = []
    for age in range(length + 1):
        frame = rng.integers(0, 256, spec.image_shape[1:], dtype=np.uint8) if spec.image_shape else None
        obs = {"sensors": rng.standard_normal(spec.sensors, dtype=np.float32), "frame": frame}
        action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32) if age else None
        steps.append((action, obs, float(np.float32(rng.normal())) if age else 0.0, age == length, False, {}))
    return steps


def steps_message(spec, length=5, **changes):
    parts = {"worker": "w", "fingerprint": "f", "number": 1, "first": 1, "version": 1, "ret": 1.0}
    return Steps(**(parts | pack_steps(random_episode(spec, length)) | changes))


# --- messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), IMAGES], ids=["lidar", "images"])
def test_an_episode_differs_after_the_wire(overrides):
    spec = make_spec(compose(*TINY, *overrides).env)
    episode = random_episode(spec, 7)
    message = from_plain(loads(dumps(to_plain(steps_message(spec, 7)))))
    assert same_rows(unpack_steps(message, spec), episode)


def test_every_kind_of_message_comes_back_as_it_was(net):
    messages = [
        Hello("w", "f", 3, 1),
        Note("s", "l", "f", "{}", 1, {"w": 2}, {"w": 1}, 7, 0, {"w": (1, 2)}, {"w": 1}, False),
        Note("s", "l", "f", "{}", 1, {}, {}, None, 0, {}, {}, True),
        Weights("s", "f", 1, b"\x00\xff"),
        Result("w", "f", 1, 1, True, episode_of(Start(0, 0.0, 0), 1.5, 3, {"outcome": "lap", "lap_share": 1.0})),
        steps_message(net.spec),
    ]
    for message in messages:
        assert from_plain(loads(dumps(to_plain(message)))) == message


@pytest.mark.parametrize(
    "data",
    [
        None, 1, [], {}, {"kind": "nothing"}, {"kind": "hello"}, {"kind": ["hello"]},
        {"kind": "hello", "worker": "w", "fingerprint": "f", "version": -1, "first": 1},
        {"kind": "hello", "worker": "w" * 101, "fingerprint": "f", "version": 1, "first": 1},
        {"kind": "hello", "worker": "w", "fingerprint": "f", "version": 1, "first": 1, "more": 1},
        {"kind": "steps", "worker": "w", "fingerprint": "f", "number": 0, "first": 1, "version": 1, "count": 2,
         "ret": 0.0, "rows": b"", "frames": b"", "ends": [True, False]},
    ],
)  # fmt: skip
def test_what_is_no_message_is_taken_for_one(data):
    with pytest.raises(MessageError):
        from_plain(loads(dumps(data)))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 6},
        {"count": 2},
        {"rows": b""},
        {"rows": b"x"},
        {"rows": np.full((6, 31), np.nan, "<f4").tobytes()},
        {"frames": b"no zlib"},
        {"frames": zlib.compress(b"short")},
        {"frames": zlib.compress(bytes(50_000_000))},
    ],
)
def test_rows_that_do_not_fit_the_observation_get_into_the_replay(changes):
    spec = make_spec(compose(*TINY, *IMAGES).env)
    with pytest.raises(MessageError):
        unpack_steps(dataclasses.replace(steps_message(spec, 4), **changes), spec)


def test_a_pickle_is_run():
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    for data in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), 0), b"", b"\xc1", dumps([1, 2])[:-1]):
        with pytest.raises(ValueError):
            loads(data)
    with pytest.raises(MessageError, match="damaged"):
        unpack_weights(pickle.dumps(Bomb()))


def test_a_message_without_end_is_sent(monkeypatch):
    monkeypatch.setattr("app.network.codec.LARGEST", 1000)
    with pytest.raises(ValueError, match="larger than"):
        dumps(bytes(1001))
    assert LARGEST == 99_999_999


# --- the ledger ---------------------------------------------------------------------------------------------


def test_an_episode_is_taken_twice_or_out_of_order():
    ledger = Ledger(patience=10)
    ledger.hear("w", 1, 1, now=0)
    assert ledger.take("w", 1) and not ledger.take("w", 1) and not ledger.take("w", 3)
    assert ledger.take("w", 2) and ledger.received() == {"w": 2} and ledger.durable() == {"w": 0}
    ledger.saved({"w": 1})
    assert ledger.durable() == {"w": 1}


def test_a_worker_from_an_earlier_trainer_is_waited_for_in_vain():
    ledger = Ledger(patience=10)
    assert ledger.hear("w", 0, 57, now=0) == 0 and ledger.take("w", 57)
    again = Ledger(patience=10)
    again.load({"w": 50})
    assert again.hear("w", 0, 57, now=0) == 6 and again.take("w", 57)


def test_the_steps_of_a_dead_worker_are_waited_for():
    ledger = Ledger(patience=10)
    for worker in "ab":
        ledger.hear(worker, 1, 1, now=0)
    assert ledger.credit(9, now=5) == 5 and ledger.alive(5) == ["a", "b"]
    ledger.hear("a", 1, 1, now=20)
    assert ledger.alive(20) == ["a"] and ledger.credit(9, now=20) == 9 and ledger.credit(-3, now=20) == 0
    assert ledger.credit(9, now=99) == 9  # whoever comes first begins


def test_evaluation_episodes_are_driven_too_often_or_not_at_all():
    assert shares(5, {}, ["a", "b"]) == {"a": 3, "b": 2}
    assert shares(5, {"a": 3, "dead": 1}, ["a", "b"]) == {"a": 4, "b": 0}
    assert shares(5, {"a": 5}, ["a"]) == {"a": 5} and shares(5, {}, []) == {}


# --- trainer and workers ------------------------------------------------------------------------------------


def test_rows_arrive_changed_or_mixed_between_workers(net):
    trainer, workers = net.trainer(), [net.worker(), net.worker()]
    net.meet(trainer, *workers)
    sent = []
    for worker in workers:
        send = worker.send_and_clear_buffer
        net.monkeypatch.setattr(
            worker, "send_and_clear_buffer", lambda w=worker, s=send: (sent.append(list(w.buffer.memory)), s())
        )
    net.due = 400
    for _ in range(3):
        net.turn(trainer, *workers)
    net.turn(trainer)
    got = episodes(drain(trainer))
    assert len(got) == len(sent) >= 4
    for episode in got:
        assert episode[-1][3] or episode[-1][4]
        assert any(same_rows(episode, one) for one in sent)


def test_a_worker_drives_more_than_it_may(net):
    trainer, worker = net.trainer(), net.worker()
    net.due = 0
    net.meet(trainer, worker)
    assert not worker._may_drive()
    net.due = 1
    net.turn(trainer, worker)  # the note
    net.turn(trainer, worker)  # the episode
    assert worker._number == 1
    net.due = -40
    for _ in range(5):
        net.turn(trainer, worker)
    assert worker._number == 1


def test_a_worker_changes_its_policy_within_an_episode(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    before = pack_weights(worker.actor)
    worker.reset(collect_samples=True)
    trainer.send_model(net.actor(seed=1))
    obs, *_ = worker.reset(collect_samples=False)
    for _ in range(3):
        obs, *_ = worker.step(obs, test=False, collect_samples=True)
    assert pack_weights(worker.actor) == before
    worker.update_actor_weights()
    assert pack_weights(worker.actor) == pack_weights(net.actor(seed=1)) != before


def test_two_workers_drive_alike(net):
    trainer, workers = net.trainer(), [net.worker(), net.worker()]
    net.meet(trainer, *workers)
    firsts = []
    for worker in workers:
        worker.collect_train_episode()
        firsts.append(worker.buffer.memory[0][1]["sensors"])
    assert not np.array_equal(*firsts) and workers[0].name != workers[1].name


def test_an_episode_is_lost_with_the_server(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    worker.collect_train_episode()
    sent = list(worker.buffer.memory)
    worker.send_and_clear_buffer()
    net.wire.lose_everything()
    net.due = 0
    for _ in range(12):
        net.turn(trainer, worker)
    assert same_rows(drain(trainer), sent)
    for _ in range(20):
        net.turn(trainer, worker)
    assert not drain(trainer)  # and it comes once


def test_a_worker_forgets_what_no_checkpoint_holds(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    worker.collect_train_episode()
    sent = list(worker.buffer.memory)
    worker.send_and_clear_buffer()
    net.due = 0
    state = trainer.state_dict()
    net.turn(trainer, worker)
    assert drain(trainer)  # it has arrived, and then the trainer is killed before another checkpoint
    other = net.trainer()
    other.load_state_dict(state)
    net.meet(other, worker)
    for _ in range(12):
        net.turn(other, worker)
    assert same_rows(drain(other), sent)
    other.state_dict()
    other.saved()
    for _ in range(3):
        net.turn(other, worker)
    assert not worker._parcels


def test_a_run_that_goes_on_waits_for_workers_that_wait_for_it(net):
    trainer = net.trainer()
    state = trainer.state_dict()
    other, worker = net.trainer(), net.worker()
    other.load_state_dict(state)
    other.resume(net.actor)  # as the trainer does before its first update, for which it needs steps
    for _ in range(4):
        net.turn(other, worker)
    assert drain(other)


@pytest.mark.parametrize("how", ["another run", "a cleared replay"])
def test_what_was_driven_for_something_else_gets_into_a_replay(net, how):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    for _ in range(3):
        net.turn(trainer, worker)
    assert worker._parcels
    other = net.trainer()
    if how == "a cleared replay":
        other.load_state_dict(trainer.state_dict())
        other.begin_episode()  # also of what waits in the checkpoint
    net.due = 0
    net.meet(other, worker)
    for _ in range(30):
        net.turn(other, worker, drive=False)
    assert not worker._parcels and not drain(other)
    net.due = 10
    for _ in range(4):
        net.turn(other, worker)
    assert drain(other)  # what is driven from here on counts


def evaluate(net, trainer, worker, lose):
    """Have two episodes driven; ``lose`` may take something off the wire at every turn."""
    trainer.send_model(net.actor(1))
    trainer.evaluate_on(7, {worker.name: (1, 1)})
    for turn in range(60):
        lose(turn)
        net.clock.pass_(1.0)
        worker.update_actor_weights()
        if (test := worker._wanted_evaluation()) is not None:
            worker._evaluate(test)
        worker._keep_in_touch()
        trainer.idle()
        if len(trainer.results()) == 2:
            break
    return [result.test for result in trainer.results()]


def test_a_lost_result_or_lost_weights_end_an_evaluation_never(net):
    trainer, worker = net.trainer(), net.worker()
    net.due = 0
    net.meet(trainer, worker)

    def results(turn):
        if turn < 4:
            net.wire.for_trainer = [data for data in net.wire.for_trainer if b"result" not in data]

    assert sorted(evaluate(net, trainer, worker, results)) == [False, True]
    trainer.evaluate_on(0, {})
    net.turn(trainer, worker)

    def weights(turn):
        if turn == 0:
            worker._endpoint.inbox.clear()

    assert sorted(evaluate(net, trainer, worker, weights)) == [False, True]
    for _ in range(20):
        net.turn(trainer, worker)
    assert len(trainer.results()) == 2  # what comes twice counts once


def test_a_long_episode_is_taken_for_a_dead_trainer(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    obs, _ = worker.reset(collect_samples=False)
    version = worker._version
    for _ in range(40):
        net.clock.pass_(1.0)
        trainer.send_model(net.actor())
        trainer.idle()
        obs, _, terminated, truncated, _ = worker.step(obs, test=False, collect_samples=False)
        if terminated or truncated:
            obs, _ = worker.reset(collect_samples=False)
    assert "no word from a trainer" not in net.text()
    assert worker._version == version and len(worker._inbox) == 2  # one policy an episode, and no heap of old ones


def test_a_checkpoint_in_the_middle_of_an_episode_loses_or_repeats_rows(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    sent = []
    for _ in range(2):
        worker.collect_train_episode()
        sent += worker.buffer.memory
        worker.send_and_clear_buffer()
    net.due = 0
    net.turn(trainer, worker)
    head = trainer.retrieve_buffer().memory
    assert 0 < len(head) < len(sent)
    state = trainer.state_dict()
    trainer.saved()
    drain(trainer)  # what is done after the checkpoint does not count
    other = net.trainer()
    assert other.load_state_dict(state)
    assert same_rows(head + drain(other), sent)
    for _ in range(15):
        net.turn(other, worker)
    assert not drain(other)


def test_what_a_local_run_left_ends_a_run_on_the_network(net):
    assert net.trainer().load_state_dict({"env": {}, "obs": None}) is False


def test_a_worker_of_another_model_drives_for_us(net):
    trainer, worker = net.trainer(), net.worker("actor.detach=false")
    trainer.send_model(net.actor())
    trainer.idle()
    worker.update_actor_weights()  # what lay on the server may be the last word of a trainer that has ended
    net.clock.pass_(1)
    trainer.idle()
    with pytest.raises(UserError, match=r"(?s)actor.detach: true → false.*trainer's own settings"):
        worker.update_actor_weights()
    assert worker._version == 0
    worker._keep_in_touch()
    net.clock.pass_(1)
    trainer.idle()
    assert "is refused" in net.text() and not trainer.workers()


def test_weights_that_are_damaged_stop_a_worker(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    good = pack_weights(worker.actor)
    session = worker._session
    for data in (b"", good[:-9], pickle.dumps(1), pack_weights(torch.nn.Linear(2, 2))):
        net.wire.workers[0].inbox.append(dumps(to_plain(Weights(session, worker._digest, 99, data))))
        worker.update_actor_weights()
        assert pack_weights(worker.actor) == good and worker._version != 99
    net.wire.workers[0].inbox.append(pickle.dumps(1))
    worker.update_actor_weights()
    assert net.text().count("passed over") == 5


def test_what_a_hostile_worker_sends_stops_the_trainer(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    wrong = steps_message(net.spec, worker="evil", fingerprint=worker._digest, count=3)
    for data in (pickle.dumps(1), dumps(1), dumps(to_plain(wrong)), dumps({"kind": "weights"})):
        net.wire.for_trainer.append(data)
        net.turn(trainer, worker, drive=False)
    assert not drain(trainer) and net.text().count("is refused") == 4
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    net.turn(trainer)
    assert drain(trainer)


def test_a_worker_that_came_late_gets_no_actor(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    for _ in range(5):
        net.turn(trainer, worker, drive=False)
    late = net.worker()  # the server's last broadcast was a note
    for _ in range(6):
        net.turn(trainer, worker, late, drive=False)
    assert late._version == worker._version and pack_weights(late.actor) == pack_weights(worker.actor)


def test_a_trainer_that_is_away_fills_the_server(net):
    trainer, worker = net.trainer(), net.worker()
    net.due = 10**6
    net.meet(trainer, worker)
    net.turn(trainer, worker)
    before = len(net.wire.for_trainer)
    for _ in range(200):  # nobody takes anything from the server
        net.clock.pass_(1.0)
        worker.update_actor_weights()
        worker._keep_in_touch()
    assert len(net.wire.for_trainer) - before < 45 and "no word from a trainer" in net.text()


def test_a_worker_whose_trainer_saves_nothing_takes_all_memory(net):
    trainer, worker = net.trainer(), net.worker("network.backlog_mb=1")
    net.due = 10**6
    net.meet(trainer, worker)
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    assert worker._may_drive()
    worker._parcels[0].size = 1_000_001
    assert not worker._may_drive()
    net.turn(trainer, worker, drive=False)
    trainer.state_dict()
    trainer.saved()
    for _ in range(2):
        net.turn(trainer, worker, drive=False)
    assert worker._may_drive()


def test_a_worker_is_still_there_when_it_is_gone(net):
    trainer, workers = net.trainer(), [net.worker(), net.worker()]
    net.meet(trainer, *workers)
    assert len(trainer.workers()) == 2
    for _ in range(20):
        net.turn(trainer, workers[0], drive=False)
    assert trainer.workers() == [workers[0].name] and "is gone (1 are left)" in net.text()


def test_a_finished_run_keeps_its_workers(net):
    trainer, worker = net.trainer(), net.worker()
    net.meet(trainer, worker)
    trainer.close(finished=True)
    worker.serve()  # returns
    assert trainer._endpoint.stopped
    late = net.worker()  # gets the last broadcast of a trainer that is gone
    late.update_actor_weights()
    assert not late._may_drive()


# --- what is refused before anything begins -----------------------------------------------------------------


@pytest.mark.parametrize("role", ["server", "worker", "trainer"])
def test_a_role_begins_without_a_password(role, monkeypatch):
    monkeypatch.delenv("TRACKMANIA_PASSWORD", raising=False)
    from app.config.load import ConfigError

    with pytest.raises(ConfigError, match=f"network.password = null: is needed with role={role}.*TRACKMANIA_PASSWORD"):
        compose(f"role={role}")
    with pytest.raises(ConfigError, match="network.password: has 5 characters") as caught:
        compose(f"role={role}", "network.password=abcde")
    assert "abcde" not in str(caught.value)
    monkeypatch.setenv("TRACKMANIA_PASSWORD", "from outside")
    config = compose(f"role={role}")
    assert config.network.password == "from outside" and "from outside" not in repr(config)


@pytest.mark.parametrize(("role", "key"), [("server", "bind"), ("worker", "host"), ("trainer", "host")])
def test_a_password_goes_through_a_network_unencrypted(role, key):
    from app.config.load import ConfigError

    secret = "network.password=long enough"
    for address in ("0.0.0.0", "192.168.1.7", "example.org"):
        with pytest.raises(ConfigError, match=f"network.{key} = {address}: goes beyond this machine"):
            compose(f"role={role}", secret, f"network.{key}={address}")
        assert not checks.problems(compose(f"role={role}", secret, f"network.{key}={address}", "network.tls=true"))
    for address in ("127.0.0.1", "127.3.2.1", "localhost"):
        compose(f"role={role}", secret, f"network.{key}={address}")


def test_a_file_of_a_run_holds_the_password(tmp_path):
    from app.runs.config_file import read_config, write_config

    write_config(tmp_path / "config.yaml", compose("role=trainer", "network.password=very secret"))
    assert "very secret" not in (tmp_path / "config.yaml").read_text()
    assert read_config(tmp_path / "config.yaml").role == "local"


# --- keys ---------------------------------------------------------------------------------------------------


def test_keys_are_overwritten_or_readable_by_others(tmp_path):
    server, client = certificates.make_keys(tmp_path / "keys")
    for folder in (server, client):
        assert (folder / "key.pem").stat().st_mode & 0o077 == 0
        assert len(certificates.files_of(tmp_path / "keys", folder.name)) == 3
    assert (server / "key.pem").read_bytes() != (client / "key.pem").read_bytes()
    with pytest.raises(UserError, match="is there already"):
        certificates.make_keys(tmp_path / "keys")
    (client / "key.pem").unlink()
    with pytest.raises(UserError, match=r"key.pem is missing.*make_keys"):
        certificates.files_of(tmp_path / "keys", "client")


def test_a_folder_that_cannot_be_made_shows_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        certificates.make_keys(tmp_path / "file" / "keys")


def test_a_compressor_and_the_wire_disagree_about_a_reset():
    config = compose(*TINY, *IMAGES)
    from app.envs.factory import make_env

    env = make_env(config.env, config.env.train_tracks, 0)
    obs, _ = env.reset()
    compress = SampleCompressor(env.spec_)
    steps = [compress(None, obs, 0.0, False, False, {})]
    for _ in range(3):
        action = np.zeros(3, np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        steps.append(compress(action, obs, reward, terminated, truncated, info))
    parts = pack_steps(steps)
    message = Steps(worker="w", fingerprint="f", number=1, first=1, version=1, ret=0.0, **parts)
    assert same_rows(unpack_steps(message, env.spec_), steps)
