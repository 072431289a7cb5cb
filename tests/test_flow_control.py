"""Flow control: every episode is accepted once, and steps and evaluation episodes are shared among workers."""

from app.distributed.flow_control import FlowControl, distribute_episodes


def test_episode_is_accepted_once_and_in_order():
    flow = FlowControl(timeout=10, max_workers=9)
    flow.register("w", 1, 1, now=0)
    assert flow.accept_episode("w", 1) and not flow.accept_episode("w", 1) and not flow.accept_episode("w", 3)
    assert flow.accept_episode("w", 2) and flow.received() == {"w": 2} and flow.saved() == {"w": 0}
    flow.mark_saved({"w": 1})
    assert flow.saved() == {"w": 1}


def test_episodes_that_an_earlier_trainer_has_received_are_not_waited_for():
    flow = FlowControl(timeout=10, max_workers=9)
    assert flow.register("w", 0, 57, now=0) == 0 and flow.accept_episode("w", 57)
    resumed = FlowControl(timeout=10, max_workers=9)
    resumed.load({"w": 50})
    assert resumed.register("w", 0, 57, now=0) == 6 and resumed.accept_episode("w", 57)


def test_steps_are_shared_among_connected_workers_only():
    flow = FlowControl(timeout=10, max_workers=9)
    for worker in "ab":
        flow.register(worker, 1, 1, now=0)
    assert flow.steps_per_worker(9, now=5) == 5 and flow.connected(5) == ["a", "b"]
    flow.register("a", 1, 1, now=20)
    assert flow.connected(20) == ["a"]
    assert flow.steps_per_worker(9, now=20) == 9 and flow.steps_per_worker(-3, now=20) == 0
    assert flow.steps_per_worker(9, now=99) == 9  # for the first worker that connects


def test_evaluation_episodes_are_distributed_evenly():
    assert distribute_episodes(5, {}, {}, ["a", "b"]) == {"a": 3, "b": 2}
    assert distribute_episodes(5, {}, {}, []) == {}


def test_slow_worker_keeps_its_evaluation_episodes():
    assigned = distribute_episodes(4, {}, {}, ["fast", "slow"])
    for done in ({"fast": 1}, {"fast": 2}, {"fast": 2, "slow": 1}):
        assert distribute_episodes(4, assigned, done, ["fast", "slow"]) == assigned == {"fast": 2, "slow": 2}


def test_evaluation_episodes_of_a_disconnected_worker_are_assigned_again():
    assigned = {"a": 3, "gone": 2}
    assert distribute_episodes(5, assigned, {"a": 3, "gone": 1}, ["a"]) == {"a": 4, "gone": 2}
    again = distribute_episodes(5, assigned, {"a": 3}, ["a", "new"])
    assert again == {"a": 4, "gone": 2, "new": 1}
    assert distribute_episodes(5, again, {"a": 3}, ["a", "new", "gone"]) == again  # it is back, and drives them, too


def test_no_more_workers_than_allowed_are_admitted_at_once():
    flow = FlowControl(timeout=10, max_workers=2)
    for worker in "ab":
        assert flow.admit(worker, now=0)
        flow.register(worker, 1, 1, now=0)
    assert not flow.admit("c", now=5) and flow.admit("a", now=5)
    assert flow.admit("c", now=20)  # the others have gone


def test_workers_that_have_left_without_an_episode_are_forgotten(monkeypatch):
    monkeypatch.setattr("app.distributed.flow_control._MAX_ACCOUNTS", 2)
    flow = FlowControl(timeout=10, max_workers=9)
    for worker in "ab":
        flow.register(worker, 1, 1, now=0)
        flow.accept_episode(worker, 1) if worker == "a" else None
    assert not flow.admit("c", now=5)  # both may still be needed
    assert flow.admit("c", now=20) and flow.received() == {"a": 1}
    flow.register("c", 1, 1, now=20)
    assert not flow.admit("d", now=25)
