"""Flow control: every episode is accepted once, and steps and evaluation episodes are shared among workers."""

from app.distributed.flow_control import FlowControl, distribute_episodes


def test_episode_is_accepted_once_and_in_order():
    flow = FlowControl(timeout=10)
    flow.register("w", 1, 1, now=0)
    assert flow.accept_episode("w", 1) and not flow.accept_episode("w", 1) and not flow.accept_episode("w", 3)
    assert flow.accept_episode("w", 2) and flow.received() == {"w": 2} and flow.saved() == {"w": 0}
    flow.mark_saved({"w": 1})
    assert flow.saved() == {"w": 1}


def test_episodes_that_an_earlier_trainer_has_received_are_not_waited_for():
    flow = FlowControl(timeout=10)
    assert flow.register("w", 0, 57, now=0) == 0 and flow.accept_episode("w", 57)
    resumed = FlowControl(timeout=10)
    resumed.load({"w": 50})
    assert resumed.register("w", 0, 57, now=0) == 6 and resumed.accept_episode("w", 57)


def test_steps_are_shared_among_connected_workers_only():
    flow = FlowControl(timeout=10)
    for worker in "ab":
        flow.register(worker, 1, 1, now=0)
    assert flow.steps_per_worker(9, now=5) == 5 and flow.connected(5) == ["a", "b"]
    flow.register("a", 1, 1, now=20)
    assert flow.connected(20) == ["a"]
    assert flow.steps_per_worker(9, now=20) == 9 and flow.steps_per_worker(-3, now=20) == 0
    assert flow.steps_per_worker(9, now=99) == 9  # for the first worker that connects


def test_evaluation_episodes_are_distributed_evenly():
    assert distribute_episodes(5, {}, ["a", "b"]) == {"a": 3, "b": 2}
    assert distribute_episodes(5, {"a": 3, "dead": 1}, ["a", "b"]) == {"a": 4, "b": 0}
    assert distribute_episodes(5, {"a": 5}, ["a"]) == {"a": 5} and distribute_episodes(5, {}, []) == {}
