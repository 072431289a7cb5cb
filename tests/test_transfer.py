"""Transfer of batches to the device that trains; tests/test_gpu.py has what needs a GPU."""

import torch

from app.replay.batch import random_batch
from app.replay.transfer import PackedTransfer, make_transfer, move
from tests.helpers.replay import replay_spec


def leaves(batch):
    """Return the tensors of a batch by name."""
    named = {}
    for name, field in batch._asdict().items():
        named |= {f"{name}.{key}": part for key, part in field.items()} if isinstance(field, dict) else {name: field}
    return named


def test_packed_batches_equal_what_was_sent():
    transfer = PackedTransfer("cpu")
    for size in (5, 5, 3):
        batch = random_batch(replay_spec(), size, 2)
        sent, received = leaves(batch), leaves(transfer(batch))
        assert sent.keys() == received.keys()
        assert all(torch.equal(sent[name], received[name]) for name in sent)
        assert all(sent[name].dtype == received[name].dtype for name in sent)


def test_packed_batches_of_one_format_share_their_tensors():
    transfer = PackedTransfer("cpu")
    first, second, other = (transfer(random_batch(replay_spec(), size, 2)) for size in (5, 5, 3))
    assert first is second
    assert other is not first


def test_batches_stay_where_they_are_on_the_cpu():
    batch = random_batch(replay_spec(), 4, 2)
    assert make_transfer("cpu")(batch) is batch
    moved = leaves(move(batch, "cpu"))
    assert all(moved[name] is part for name, part in leaves(batch).items())
