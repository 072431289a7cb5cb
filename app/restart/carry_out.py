"""Carrying out a plan: removing files, or moving them into the archive."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.errors import UserError
from app.restart.beneath import Folder, find_file
from app.restart.plan import Item, Plan
from app.restart.receipt import Receipt
from app.runs.history import unused_time
from app.runs.manifest import Manifest


def remove(plan: Plan) -> Receipt:
    """Remove the files of a plan, and their folders where these are empty then.

    The caller holds the lock of the plan's root. A plan without files leaves no receipt.

    Raises:
        UserError: a file cannot go. What can be seen beforehand is said before anything is changed; after an error
            on the way, the receipt says what was done.
    """
    return _carry_out(plan, "delete", unused_time(plan.root), None, _unlink)


def archive(plan: Plan) -> Receipt:
    """Move the files of a plan to ``archive/<time>/`` in its root; else as ``remove``."""
    time = unused_time(plan.root)
    place = plan.root / "archive" / time

    def move(item: Item) -> None:
        target = place / _within(plan, item)
        with (
            Folder.hold(item.base, item.path.parent) as source,
            Folder.hold(plan.base, target.parent, make=True) as folder,
        ):
            source.move(target.name, folder)

    return _carry_out(plan, "archive", time, place, move)


def _carry_out(plan: Plan, mode: str, time: str, place: Path | None, act: Callable[[Item], None]) -> Receipt:
    if not plan.items:
        return Receipt(plan, mode, time, (), None, None)
    receipt = Receipt(plan, mode, time, (), place, plan.root / "history" / time / "receipt.json")
    _check(plan)
    try:
        for folder in (receipt.path.parent, place or receipt.path.parent):
            with Folder.hold(plan.base, folder, make=True):
                pass
        receipt.write()  # as a plan: what is in it tells a reader where a killed restart was
    except OSError as error:
        raise UserError(
            f"{plan.root}: nothing was removed, because no record can be kept ({_reason(error)}). "
            "Free some space or make the folder writable, and start again."
        ) from None

    done: list[Item] = []
    try:
        try:
            for item in plan.items:
                act(item)
                done.append(item)
        finally:
            receipt = replace(receipt, done=tuple(done))
            receipt.write()
            _forget(done)
    except OSError as error:
        at = plan.items[len(done)].path if len(done) < len(plan.items) else receipt.path
        raise UserError(
            f"{at}: restart stopped here ({_reason(error)}) after {len(done)} of {len(plan.items)} files, which "
            f"{receipt.path} lists. Put it right and start again: the rest follows."
        ) from None
    return receipt


def _unlink(item: Item) -> None:
    with Folder.hold(item.base, item.path.parent) as folder:
        folder.unlink(item.path.name)


def _within(plan: Plan, item: Item) -> Path:
    """Return the place of a file in the archive: its path in the root, or with the name of the folder it came from."""
    if plan.root in item.path.parents:
        return item.path.relative_to(plan.root)
    return item.path.relative_to(item.base.parent)


def _check(plan: Plan) -> None:
    """Refuse a plan that would stop half way, as far as this can be seen.

    Raises:
        UserError: the first file that has changed since it was planned, or whose folder cannot be written.
    """
    for item in plan.items:
        try:
            reason = "" if find_file(item.base, item.path) else "it has gone since it was listed"
        except OSError as error:
            reason = _reason(error)
        if not reason and not os.access(item.path.parent, os.R_OK | os.W_OK | os.X_OK):
            reason = f"its folder {item.path.parent} cannot be written"
        if not reason and os.name == "nt" and not os.access(item.path, os.W_OK):
            reason = "it is marked read-only"
        if reason:
            raise UserError(
                f"{item.path}: cannot be removed: {reason}. Nothing was changed. "
                f"Put that right, or leave {item.kind!r} out of restart.targets, and start again."
            )


def _forget(done: list[Item]) -> None:
    """Take what is gone off the manifests, and remove the folders that it leaves empty."""
    ours = [item for item in done if item.listed]
    for root in {item.root for item in ours}:
        Manifest.open(root).discard(item.path for item in ours if item.root == root)
    folders = {(item.base, folder) for item in ours for folder in item.path.parents if item.root in folder.parents}
    for base, path in sorted(folders, key=lambda pair: len(pair[1].parts), reverse=True):
        with contextlib.suppress(OSError), Folder.hold(base, path.parent) as parent:  # not empty: it stays
            parent.remove_folder(path.name)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
