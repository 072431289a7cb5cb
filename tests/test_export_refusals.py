"""Exported folders that the driver refuses; they are made by hand, because what was trained does not matter."""

import hashlib
import json

import numpy as np
import pytest

import app.export_bundle  # noqa: F401  imports tmrl without its side effects, before the driver does
from app.export_bundle import driver
from app.export_bundle.driver import MODEL, BundleActor, BundleError
from tests.helpers.onnx_files import make_graph

OBS = {"floats": np.ones(2, np.float32)}


@pytest.fixture
def folder(tmp_path):
    """A model and its description, to be damaged."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / driver.DESCRIPTION).write_text(json.dumps({"format": driver.FORMAT}))
    put(folder, make_graph())
    return folder


def put(folder, model):
    """Replace the model of a folder, as somebody would who wants it to be loaded."""
    description = json.loads((folder / driver.DESCRIPTION).read_text())
    description["sha256"] = hashlib.sha256(model).hexdigest()
    (folder / driver.DESCRIPTION).write_text(json.dumps(description))
    (folder / MODEL).write_bytes(model)


def test_running_actor_is_independent_of_its_file(folder):
    """A file that is written anew, or a load that is refused, leaves the actor as it was."""
    bundle = BundleActor(folder=folder)
    before = bundle.act(OBS, test=True)
    path = folder / MODEL
    with path.open("r+b") as file:  # in place, as long as before
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(bundle.act(OBS, test=True), before)
    with pytest.raises(BundleError):
        bundle.load(path)
    np.testing.assert_array_equal(bundle.act(OBS, test=True), before)


@pytest.mark.parametrize(
    "operation, domain", [("PyOp", "ai.onnx.contrib"), ("Print", "prim"), ("system", ""), ("", "")]
)
def test_operation_that_onnxruntime_does_not_have_is_refused(operation, domain, folder):
    put(folder, make_graph(operation, domain))
    with pytest.raises(BundleError, match=f"{MODEL} cannot be used"):
        BundleActor(folder=folder)


@pytest.mark.parametrize("part", ["initializer", "constant", "sparse"])
def test_model_that_reads_other_files_is_refused(part, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, folder):
        (place / "secret.bin").write_bytes(bytes(8))
    for location in ("secret.bin", "../secret.bin", tmp_path / "secret.bin"):
        put(folder, make_graph(external=location, place=part))
        with pytest.raises(BundleError, match=f"{MODEL} cannot be used"):
            BundleActor(folder=folder)


@pytest.mark.parametrize(
    "model",
    [
        b"",
        bytes(100),
        b"import os",
        make_graph()[:-10],
        make_graph(outputs=("action", "mean")),
        make_graph(outputs=("actions", "mean", "log_std")),
        make_graph(dtype=8),  # text
        make_graph("Identity", dtype=11),  # float64
    ],
)
def test_damaged_model_is_refused_before_it_drives(model, folder):
    assert BundleActor(folder=folder).act(OBS, test=True).tolist() == [1, 1]
    put(folder, model)
    with pytest.raises(BundleError, match=f"{MODEL} cannot be used"):
        BundleActor(folder=folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"format": null}', "[" * 100_000, "\udcff"])
def test_file_that_is_no_description_is_refused(text, folder):
    (folder / driver.DESCRIPTION).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match="actor.json cannot be used"):
        BundleActor(folder=folder)


def test_description_of_another_format_is_refused_with_what_to_do(folder):
    for other in (1, 2, 4):
        (folder / driver.DESCRIPTION).write_text(json.dumps({"format": other, "program": {}}))
        words = f"has format {other}, and this driver.py reads format {driver.FORMAT}. Export the run again"
        with pytest.raises(BundleError, match=words):
            BundleActor(folder=folder)


def test_model_of_another_actor_is_refused(folder, tmp_path):
    bundle = BundleActor(folder=folder)
    (tmp_path / "other.onnx").write_bytes(make_graph("Neg"))
    with pytest.raises(BundleError, match="is damaged or of another bundle"):
        bundle.load(tmp_path / "other.onnx", "cpu")
    path = folder / MODEL
    original = path.read_bytes()
    path.write_bytes(original[:-1])
    with pytest.raises(BundleError, match="is damaged or of another bundle"):
        BundleActor(folder=folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"{MODEL} cannot be used: .*No such file"):
        BundleActor(folder=folder)
    path.write_bytes(original)
    description = json.loads((folder / driver.DESCRIPTION).read_text())
    del description["sha256"]
    (folder / driver.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(BundleError, match="SHA-256"):
        BundleActor(folder=folder)
