"""Trainer and workers on a wire in one process: what arrives, what is kept, what is ignored."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from app.core.errors import UserError
from app.distributed.local_continuation import continue_locally
from app.distributed.messages import EvaluationResult, Weights, encode_message, pack_weights
from app.distributed.remote_evaluator import RemoteEvaluator
from app.distributed.wire_format import dumps
from app.evaluation.episodes import Start, make_episode, make_starts
from tests.helpers.episodes import episode_message, same_steps
from tests.helpers.make import compose
from tests.helpers.net import Clock, Net
from tests.helpers.runs import TINY


@pytest.fixture
def net(monkeypatch):
    return Net(monkeypatch, Clock(monkeypatch))


def receive_two_episodes(net):
    """Return a trainer that has received two episodes, the worker, and their steps."""
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    sent = []
    for _ in range(2):
        worker.collect_train_episode()
        sent += worker.buffer.memory
        worker.send_and_clear_buffer()
    net.steps_due = 0
    net.advance(trainer, worker)
    return trainer, worker, sent


def drain(trainer):
    """Return all steps that there are, as the loop does; the last buffer may end within an episode."""
    steps = []
    while buffer := trainer.retrieve_buffer().memory:
        assert len(buffer) <= 20
        steps += buffer
    return steps


def episodes(steps):
    """Split steps at the resets."""
    starts = [i for i, step in enumerate(steps) if step[0] is None] + [len(steps)]
    return [steps[a:b] for a, b in zip(starts, starts[1:], strict=False)]


def test_episodes_of_several_workers_arrive_whole_and_unchanged(net):
    trainer, workers = net.trainer(), [net.worker(), net.worker()]
    net.connect(trainer, *workers)
    sent = []
    for worker in workers:
        send = worker.send_and_clear_buffer
        net.monkeypatch.setattr(
            worker, "send_and_clear_buffer", lambda w=worker, s=send: (sent.append(list(w.buffer.memory)), s())
        )
    net.steps_due = 400
    for _ in range(3):
        net.advance(trainer, *workers)
    net.advance(trainer)
    got = episodes(drain(trainer))
    assert len(got) == len(sent) >= 4
    for episode in got:
        assert episode[-1][3] or episode[-1][4]
        assert any(same_steps(episode, one) for one in sent)


def test_workers_drive_as_many_episodes_deterministically_as_the_trainer_wants(net):
    trainer, worker = net.trainer("agent.deterministic_share=0.5"), net.worker()
    net.connect(trainer, worker)
    modes, act = [set()], worker.act
    net.monkeypatch.setattr(worker, "act", lambda obs, test=False: modes[-1].add(test) or act(obs, test))
    for _ in range(4):
        worker.collect_train_episode()
        worker.send_and_clear_buffer()
        modes.append(set())
    assert modes[:4] == [{False}, {True}, {False}, {True}]


def test_worker_collects_no_more_than_allowed(net):
    trainer, worker = net.trainer(), net.worker()
    net.steps_due = 0
    net.connect(trainer, worker)
    assert not worker._may_collect()
    net.steps_due = 1
    net.advance(trainer, worker)  # the status
    net.advance(trainer, worker)  # the episode
    assert worker._episode_number == 1
    net.steps_due = -40
    for _ in range(5):
        net.advance(trainer, worker)
    assert worker._episode_number == 1


def test_episode_is_driven_by_one_policy(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    before = pack_weights(worker.actor)
    worker.reset(collect_samples=True)
    trainer.send_model(net.actor(seed=1))
    obs, *_ = worker.reset(collect_samples=False)
    for _ in range(3):
        obs, *_ = worker.step(obs, test=False, collect_samples=True)
    assert pack_weights(worker.actor) == before
    worker.update_actor_weights()
    assert pack_weights(worker.actor) == pack_weights(net.actor(seed=1)) != before


def test_two_workers_act_differently(net):
    trainer, workers = net.trainer(), [net.worker(), net.worker()]
    net.connect(trainer, *workers)
    firsts = []
    for worker in workers:
        worker.collect_train_episode()
        firsts.append(worker.buffer.memory[0][1]["sensors"])
    assert not np.array_equal(*firsts) and workers[0].name != workers[1].name


def test_episode_that_is_lost_with_the_server_is_sent_again(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    worker.collect_train_episode()
    sent = list(worker.buffer.memory)
    worker.send_and_clear_buffer()
    net.wire.lose_everything()
    net.steps_due = 0
    for _ in range(12):
        net.advance(trainer, worker)
    assert same_steps(drain(trainer), sent)
    for _ in range(20):
        net.advance(trainer, worker)
    assert not drain(trainer)  # and it comes once


def test_worker_keeps_an_episode_until_a_checkpoint_contains_it(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    worker.collect_train_episode()
    sent = list(worker.buffer.memory)
    worker.send_and_clear_buffer()
    net.steps_due = 0
    state = trainer.state_dict()
    net.advance(trainer, worker)
    assert drain(trainer)  # it has arrived, and then the trainer is killed before another checkpoint
    other = net.trainer()
    other.load_state_dict(state)
    net.connect(other, worker)
    for _ in range(12):
        net.advance(other, worker)
    assert same_steps(drain(other), sent)
    other.state_dict()
    other.saved()
    for _ in range(3):
        net.advance(other, worker)
    assert not worker._unsaved


def test_resumed_run_sends_its_actor_to_waiting_workers(net):
    trainer = net.trainer()
    state = trainer.state_dict()
    other, worker = net.trainer(), net.worker()
    other.load_state_dict(state)
    other.resume(net.actor)  # as the trainer does before its first update, for which it needs steps
    for _ in range(4):
        net.advance(other, worker)
    assert drain(other)


@pytest.mark.parametrize("how", ["another run", "a cleared replay"])
def test_episodes_of_another_generation_are_dropped(net, how):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    for _ in range(3):
        net.advance(trainer, worker)
    assert worker._unsaved
    other = net.trainer()
    if how == "a cleared replay":
        other.load_state_dict(trainer.state_dict())
        other.begin_episode()  # also of what waits in the checkpoint
    net.steps_due = 0
    net.connect(other, worker)
    for _ in range(30):
        net.advance(other, worker, collect=False)
    assert not worker._unsaved and not drain(other)
    net.steps_due = 10
    for _ in range(4):
        net.advance(other, worker)
    assert drain(other)  # what is driven from here on counts


def evaluate(net, trainer, worker, lose):
    """Have two episodes driven; ``lose`` may take something off the wire at every turn."""
    trainer.send_model(net.actor(1))
    trainer.request_evaluation(7, {worker.name: (1, 1)})
    for turn in range(60):
        lose(turn)
        net.clock.advance(1.0)
        worker.update_actor_weights()
        if (deterministic := worker._wanted_evaluation()) is not None:
            worker._evaluate(deterministic)
        worker._keep_in_touch()
        trainer.idle()
        if len(trainer.results()) == 2:
            break
    return [result.deterministic for result in trainer.results()]


def test_evaluation_survives_lost_results_and_lost_weights(net):
    trainer, worker = net.trainer(), net.worker()
    net.steps_due = 0
    net.connect(trainer, worker)

    def results(turn):
        if turn < 4:
            net.wire.for_trainer = [data for data in net.wire.for_trainer if b"result" not in data]

    assert sorted(evaluate(net, trainer, worker, results)) == [False, True]
    trainer.request_evaluation(0, {})
    net.advance(trainer, worker)

    def weights(turn):
        if turn == 0:
            worker._endpoint.inbox.clear()

    assert sorted(evaluate(net, trainer, worker, weights)) == [False, True]
    for _ in range(20):
        net.advance(trainer, worker)
    assert len(trainer.results()) == 2  # what comes twice counts once


def test_trainer_is_heard_during_a_long_episode(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    obs, _ = worker.reset(collect_samples=False)
    version = worker._actor_version
    for _ in range(40):
        net.clock.advance(1.0)
        trainer.send_model(net.actor())
        trainer.idle()
        obs, _, terminated, truncated, _ = worker.step(obs, test=False, collect_samples=False)
        if terminated or truncated:
            obs, _ = worker.reset(collect_samples=False)
    assert "No message from a trainer" not in net.text()
    assert (
        worker._actor_version == version and len(worker._inbox) == 2
    )  # one policy an episode, and no heap of old ones


def test_checkpoint_in_the_middle_of_an_episode_keeps_every_row_once(net):
    trainer, worker, sent = receive_two_episodes(net)
    head = trainer.retrieve_buffer().memory
    assert 0 < len(head) < len(sent)
    state = trainer.state_dict()
    trainer.saved()
    drain(trainer)  # what is done after the checkpoint does not count
    other = net.trainer()
    assert other.load_state_dict(state)
    assert same_steps(head + drain(other), sent)
    for _ in range(15):
        net.advance(other, worker)
    assert not drain(other)


def test_checkpoint_of_a_local_run_is_accepted(net):
    assert net.trainer().load_state_dict({"env": {}, "obs": None}) is False


def test_unreadable_episodes_of_an_older_checkpoint_are_dropped_with_a_message(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    net.advance(trainer, collect=False)
    state = trainer.state_dict()
    old = dumps({"kind": "steps", "worker": "w"})
    assert len(state["pending"]) == 1
    resumed = net.trainer()
    state["pending"] = [torch.frombuffer(bytearray(old), dtype=torch.uint8)]
    assert resumed.load_state_dict(state | {"rows_left": 3}) is False
    assert not drain(resumed) and "(1) cannot be read and are dropped" in net.text()
    net.connect(resumed, worker)
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    net.advance(resumed, collect=False)
    assert len(episodes(drain(resumed))) == 1  # the run continues with new episodes


def test_worker_with_another_model_is_refused(net):
    trainer, worker = net.trainer(), net.worker("actor.detach=false")
    trainer.send_model(net.actor())
    trainer.idle()
    worker.update_actor_weights()  # what lay on the server may be the last word of a trainer that has ended
    net.clock.advance(1)
    trainer.idle()
    with pytest.raises(UserError, match=r"(?s)actor.detach: true → false.*trainer's own settings"):
        worker.update_actor_weights()
    assert worker._actor_version == 0
    worker._keep_in_touch()
    net.clock.advance(1)
    trainer.idle()
    assert "was refused" in net.text() and not trainer.workers()


def test_damaged_weights_are_ignored_by_a_worker(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    good = pack_weights(worker.actor)
    session = worker._session
    half = pack_weights(
        torch.nn.ModuleDict({"other": torch.nn.Linear(2, 2), **dict(list(net.actor(1).named_children())[:1])})
    )
    infinite = net.actor(1)
    next(infinite.parameters()).data.fill_(torch.inf)
    for data in (b"", good[:-9], pickle.dumps(1), half, pack_weights(infinite)):
        net.wire.workers[0].inbox.append(encode_message(Weights(session, worker._digest, 99, data)))
        worker.update_actor_weights()
        assert pack_weights(worker.actor) == good and worker._actor_version != 99
    net.wire.workers[0].inbox.append(pickle.dumps(1))
    worker.update_actor_weights()
    assert net.text().count("ignored: ") == 5  # what is the same is said once


def test_hostile_messages_are_ignored_by_the_trainer(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    wrong = episode_message(net.spec, worker="evil", fingerprint=worker._digest, row_count=3)
    for data in (pickle.dumps(1), dumps(1), encode_message(wrong), dumps({"kind": "weights"})):
        net.wire.for_trainer.append(data)
        net.advance(trainer, worker, collect=False)
    assert not drain(trainer) and net.text().count("was ignored") == 4
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    net.advance(trainer)
    assert drain(trainer)


def test_late_worker_receives_the_actor(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    for _ in range(5):
        net.advance(trainer, worker, collect=False)
    late = net.worker()  # the server's last broadcast was a note
    for _ in range(6):
        net.advance(trainer, worker, late, collect=False)
    assert late._actor_version == worker._actor_version and pack_weights(late.actor) == pack_weights(worker.actor)


def test_worker_sends_few_heartbeats_while_no_trainer_answers(net):
    trainer, worker = net.trainer(), net.worker()
    net.steps_due = 10**6
    net.connect(trainer, worker)
    net.advance(trainer, worker)
    before = len(net.wire.for_trainer)
    for _ in range(200):  # nobody takes anything from the server
        net.clock.advance(1.0)
        worker.update_actor_weights()
        worker._keep_in_touch()
    assert len(net.wire.for_trainer) - before < 45 and "No message from a trainer" in net.text()


def test_worker_waits_while_its_backlog_is_full(net):
    trainer, worker = net.trainer(), net.worker("network.backlog_mb=1")
    net.steps_due = 10**6
    net.connect(trainer, worker)
    worker.collect_train_episode()
    worker.send_and_clear_buffer()
    assert worker._may_collect()
    worker._unsaved[0].size = 1_000_001
    assert not worker._may_collect()
    net.advance(trainer, worker, collect=False)
    trainer.state_dict()
    trainer.saved()
    for _ in range(2):
        net.advance(trainer, worker, collect=False)
    assert worker._may_collect()


def test_vanished_worker_is_reported_as_disconnected(net):
    trainer, workers = net.trainer(), [net.worker(), net.worker()]
    net.connect(trainer, *workers)
    assert len(trainer.workers()) == 2
    for _ in range(20):
        net.advance(trainer, workers[0], collect=False)
    assert trainer.workers() == [workers[0].name] and "disconnected (1 remaining)." in net.text()


def test_workers_end_with_the_run(net):
    trainer, worker = net.trainer(), net.worker()
    net.connect(trainer, worker)
    trainer.close(finished=True)
    worker.serve()  # returns
    assert trainer._endpoint.stopped
    late = net.worker()  # gets the last broadcast of a trainer that is gone
    late.update_actor_weights()
    assert not late._may_collect()


def test_trainer_receives_no_more_than_it_may_keep_and_the_rest_comes_later(net):
    trainer, worker = net.trainer("network.backlog_mb=1"), net.worker()
    net.steps_due = 10**6
    net.connect(trainer, worker)
    net.monkeypatch.setattr("app.distributed.episode_queue._OVERHEAD", 600_000)
    for _ in range(4):
        net.advance(trainer, worker)
    assert len(trainer._episodes) == 1 and worker._episode_number >= 3
    net.steps_due = 0
    got = []
    for _ in range(150):
        got += drain(trainer)
        net.advance(trainer, worker, collect=False)
    assert len(episodes(got)) == worker._episode_number


def test_results_that_nobody_asked_for_are_ignored(net):
    trainer, worker = net.trainer(), net.worker()
    net.steps_due = 0
    net.connect(trainer, worker)
    trainer.request_evaluation(7, {worker.name: (1, 0)})
    episode = make_episode(Start(0, 0.0, 0), 1.5, 3, {"outcome": "lap", "lap_share": 1.0})
    for name, number, deterministic in (("other", 7, True), (worker.name, 6, True), (worker.name, 7, False)):
        net.wire.for_trainer.append(
            encode_message(EvaluationResult(name, worker._digest, number, 1, deterministic, episode))
        )
    for number in (1, 1, 2):
        net.wire.for_trainer.append(
            encode_message(EvaluationResult(worker.name, worker._digest, 7, number, True, episode))
        )
    net.advance(trainer, worker, collect=False)
    assert [result.number for result in trainer.results()] == [1]


def test_long_episodes_of_a_slow_game_count_as_much_as_short_ones_of_a_fast_one(net):
    """The first episodes to end are the short ones: an evaluation that stops with them is biased."""
    trainer, fast, slow = net.trainer(), net.worker(), net.worker()
    net.steps_due = 0
    net.connect(trainer, fast, slow)
    turns = {"count": 0}

    def drive(worker, length):
        worker.update_actor_weights()
        if worker._wanted_evaluation() is not None and turns["count"] % length == 0:
            episode = make_episode(Start(0, 0.0, 0), float(length), length, {"outcome": "lap", "lap_share": 1.0})
            net.monkeypatch.setattr("app.distributed.worker.run_episodes", lambda *_, **__: [episode])
            worker._evaluate(worker._wanted_evaluation())
        worker._keep_in_touch()

    def on_step():
        turns["count"] += 1
        net.clock.advance(1.0)
        drive(fast, 1)
        drive(slow, 12)

    result = RemoteEvaluator(trainer, on_step).evaluate(net.actor(1), make_starts((), 6, 0.0), make_starts((), 2, 0.0))
    assert sorted(episode.length for episode in result.deterministic) == [1, 1, 1, 12, 12, 12]
    assert sorted(episode.length for episode in result.stochastic) == [1, 12]


def test_local_run_uses_what_a_run_over_a_network_has_received(net):
    trainer, _, sent = receive_two_episodes(net)
    head = trainer.retrieve_buffer().memory
    local = local_interface(net)
    assert local.load_state_dict(trainer.state_dict()) and "2 episodes" in net.text()
    middle = local.retrieve_buffer().memory
    resumed = net.trainer()  # over the network again
    assert resumed.load_state_dict(local.state_dict())
    assert same_steps(head + middle + drain(resumed), sent)
    again = local_interface(net)
    assert again.load_state_dict(local.state_dict())
    rest = []
    while again._received:
        rest += again.retrieve_buffer().memory
    assert same_steps(head + middle + rest, sent)
    assert len(again.retrieve_buffer().memory) > 1  # from here on it collects itself


def local_interface(net):
    config = compose(*TINY)
    interface, _ = continue_locally(config, net.spec, SimpleNamespace(steps_to_collect=lambda: 5), net.console, None)
    return interface


def test_starting_workers_are_not_asked_for(net):
    trainer = net.trainer()
    trainer._starts_workers = True
    for _ in range(30):
        net.advance(trainer)
    assert "Start workers" not in net.text() and "still starting" in net.text()
