"""Memory of a replay: the estimate, the refusal, and the limits of control groups."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.replay.memory_check import (
    USABLE_SHARE,
    MemoryEstimate,
    ReplayTooLarge,
    _memory_left_in_cgroups,
    available_memory,
    estimate_memory,
    require_memory,
)
from app.replay.ring import largest_capacity, slack_rows
from tests.helpers.replay import make_memory, replay_spec


@pytest.mark.parametrize("image", [(4, 64, 64), (4, 32, 32), None])
def test_arrays_take_little_more_than_the_raw_bytes(image):
    spec = replay_spec(22, 3, 2, image, 16, (0, *range(3, 22)))
    memory = make_memory(spec, capacity=1000, slack=slack_rows(1000))
    frame = 0 if image is None else image[1] * image[2]
    assert memory.nbytes <= 1.1 * 2024 * (frame + 26 * 4)
    estimate = estimate_memory(spec, 1000)
    assert estimate.total_bytes == memory.nbytes and estimate.bytes_per_step * 2024 == memory.nbytes


def test_too_large_replay_is_refused_with_the_capacity_that_fits():
    estimate = MemoryEstimate(
        capacity=1_000_000,
        bytes_per_step=4000,
        total_bytes=4_000_000_000,
        available_bytes=2_000_000_000,
        fitting_capacity=450_123,
    )
    with pytest.raises(ReplayTooLarge) as refusal:
        require_memory(estimate)
    message = str(refusal.value)
    for part in (
        "replay.capacity=1000000 needs 4.0 GB",
        "only 2.0 GB are free",
        "replay.capacity=450000 would fit",
    ):
        assert part in message


def test_replay_that_fits_is_accepted_and_leaves_memory_free():
    spec = replay_spec()
    fitting = estimate_memory(spec, 10).fitting_capacity
    require_memory(estimate_memory(spec, fitting // 2))
    usable = 1.2 * USABLE_SHARE * available_memory()  # other programs may take some memory meanwhile
    assert estimate_memory(spec, fitting).total_bytes <= usable
    with pytest.raises(ReplayTooLarge):
        require_memory(estimate_memory(spec, fitting * 2))


@given(rows=st.integers(0, 10**9))
def test_capacity_that_fits_includes_the_slack(rows):
    fitting = largest_capacity(rows)
    assert fitting == 0 or fitting + slack_rows(fitting) <= rows
    assert fitting + 2 + slack_rows(fitting + 2) > rows


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_all_control_groups_are_read(tmp_path, version):
    """The machine may have more memory than the control group, or a group above it, grants."""
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    if version == 2:
        group, names, line = root / "job", ("memory.max", "memory.current", "inactive_file"), "0::/job/step\n"
    else:
        group, line = root / "memory" / "job", "9:cpu,cpuacct:/\n4:memory:/job/step\n"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (group / "step").mkdir(parents=True)
    membership.write_text(line)
    for folder, limit in ((group, 1000), (group / "step", 5000)):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text("400\n")
        (folder / "memory.stat").write_text(f"anon 300\n{names[2]} 100\n")
    assert sorted(_memory_left_in_cgroups(membership, root)) == [700, 4700]
    if version == 2:
        (group / names[0]).write_text("max\n")
        assert _memory_left_in_cgroups(membership, root) == [4700]
    assert _memory_left_in_cgroups(tmp_path / "not linux", root) == []


def test_available_memory_is_the_least_of_machine_and_control_groups(monkeypatch):
    monkeypatch.setattr("app.replay.memory_check._memory_left_in_cgroups", lambda *_: [12345])
    assert available_memory() == 12345
    monkeypatch.setattr("app.replay.memory_check._memory_left_in_cgroups", lambda *_: [])
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=77))
    assert available_memory() == 77
