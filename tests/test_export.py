"""Exported actors: their actions, their refusals, and that they need nothing of this program."""

import ast
import json
import os
import pickletools
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
import torch

from app.config.load import unknown_key
from app.config.schema_commands import EvaluateConfig, ExportConfig
from app.core import tmrl_api
from app.core.errors import UserError
from app.core.tmrl_api import RolloutWorker
from app.envs.env_factory import make_env, make_spec
from app.envs.observation import ObservationBuilder
from app.export_bundle import export_run, verify
from app.export_bundle.bundle import FILES, observation_source
from app.export_bundle.driver import MODEL, OUTPUTS, BundleActor, BundleError
from app.export_bundle.export_run import describe_interface
from app.export_bundle.onnx_export import Policy
from app.export_bundle.verify import make_observations
from app.models.actor import DrivingActor
from app.runs.config_file import write_config
from app.runs.fingerprint import fingerprint
from app.runs.run_folder import RunFolder
from app.training.evaluate_run import evaluate_run
from tests.helpers.make import compose, with_requirements
from tests.helpers.onnx_files import make_graph
from tests.helpers.runs import ROOT, TINY

STAGES = ",".join(
    f"{{expand:{expand},channels:8,blocks:1,stride:{stride},se:{se}}}"
    for expand, stride, se in ((1, 1, "false"), (2, 2, "true"))
)
SHORT_WINDOW = "env.window=4"  # the graph repeats the GRU for every step of the window
IMAGES = (
    *TINY, SHORT_WINDOW, "env.images=true", "env.image_size=16", "model.image_dim=8", "norm.groups=4",
    f"backbone.stages=[{STAGES}]", "backbone.stem_channels=8", "backbone.head_channels=16",
)  # fmt: skip
PLAIN = tuple(key for key in IMAGES if not key.startswith(("encoder.", "model.fused_dim")))
SMALLEST = ("env=gym", "model=mlp")
MODELS = {
    "default": (),
    "group": IMAGES,
    "batch": (*IMAGES, "norm=batch", "encoder.dropout=0.1"),
    "layer": (*IMAGES, "norm=layer"),
    "none": (*IMAGES, "norm=none"),
    "lidar": (*TINY, SHORT_WINDOW, "encoder.dropout=0.1"),
    "droq": (*PLAIN, "model=droq", "norm=batch"),
    "shared": (*PLAIN, "model=shared_backbone"),
    "gym": SMALLEST,
}
SLOW = ("default", "batch", "layer", "none", "shared")  # a conversion takes some seconds
MARKS = {name: pytest.mark.slow for name in SLOW} | {"lidar": pytest.mark.e2e}


def make_run(path, *overrides):
    """A folder as a run leaves it, and its best actor: every weight and statistic differs from its initial value."""
    config = compose(*overrides)
    spec = make_spec(config.env)
    torch.manual_seed(0)
    actor = DrivingActor(spec.observation_space(), spec.action_space(), config, spec)
    for name, part in actor.state_dict().items():
        if part.is_floating_point():
            part += torch.rand_like(part) if name.endswith("running_var") else 0.05 * torch.randn_like(part)
    folder = RunFolder(path)
    write_config(folder.config, config)
    folder.save_best(actor, actor, {"return_test_det": 12.5, "best_epoch": 3}, fingerprint(config))
    return actor, spec


def export(path, folder=None):
    return export_run.export(ExportConfig(str(path), folder and str(folder), None, 1000, 0.95, None))


def split(obs):
    """The observations of a batch one by one, as an environment gives them."""
    return [{name: part[i].numpy() for name, part in obs.items()} for i in range(len(obs["floats"]))]


def act(actor, obs, test=True):
    """Action of a torch actor for one observation."""
    return actor.act({name: torch.from_numpy(part[None]) for name, part in obs.items()}, test)


@pytest.fixture(scope="module")
def exported_model(tmp_path_factory):
    """Return a function that gives actor, spec, and the folder, which must not be changed, of a kind of network."""

    @cache
    def make(name):
        path = tmp_path_factory.mktemp("runs") / "run"
        actor, spec = make_run(path, *MODELS[name])
        return actor, spec, export(path)

    return make


@pytest.fixture
def exported(exported_model):
    """Actor, spec, and the exported folder, which must not be changed, of a network with every part."""
    return exported_model("group")


@pytest.fixture
def small_run(tmp_path, monkeypatch, exported_model):
    """The smallest run, whose conversion takes no time."""
    make_run(tmp_path / "run", *SMALLEST)
    model = (exported_model("gym")[2] / MODEL).read_bytes()
    monkeypatch.setattr(export_run, "to_onnx", lambda *_: model)
    return tmp_path / "run"


# ------------------------------------------------------------------------------------------------ actions


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in MODELS])
def test_exported_actor_acts_as_the_original(name, exported_model):
    """Deterministic and drawn actions, for plausible observations and for extreme ones."""
    actor, spec, folder = exported_model(name)
    bundle = BundleActor(spec.observation_space(), spec.action_space(), folder=folder)
    obs, actions = make_observations(spec, 4), []
    for extreme in (1.0, 1e3):
        batch = {name: part * (extreme if part.is_floating_point() else 1) for name, part in obs.items()}
        _, mean, log_std = Policy(actor.net)(**batch)
        for i, one in enumerate(split(batch)):
            actions.append(act(actor, one))
            np.testing.assert_allclose(bundle.act(one, test=True), actions[-1], rtol=0, atol=1e-5)
            bundle.rng = np.random.default_rng(i)
            noise = torch.from_numpy(np.random.default_rng(i).standard_normal(spec.action_dim, np.float32))
            actions.append((mean[i] + log_std[i].exp() * noise).tanh().numpy())
            np.testing.assert_allclose(bundle.act(one), actions[-1], rtol=0, atol=1e-5)
    assert np.std(actions, axis=0).min() > 0.01  # the network depends on its inputs


def test_drawn_actions_differ_from_each_other_and_between_actors(exported):
    _, spec, folder = exported
    one, other = BundleActor(folder=folder), BundleActor(folder=folder)
    obs = split(make_observations(spec, 1))[0]
    drawn = [one.act(obs), one.act(obs), other.act(obs)]
    assert len({action.tobytes() for action in drawn}) == 3
    assert all(action.dtype == np.float32 and action.shape == (spec.action_dim,) for action in drawn)


def test_onnx_gives_the_outputs_of_the_actor_for_any_batch(exported):
    actor, spec, folder = exported
    session = BundleActor(folder=folder).session
    for size in (1, 5):
        obs = {name: part[1:] for name, part in make_observations(spec, size + 1).items()}
        expected = Policy(actor.net)(**obs)
        assert torch.equal(expected[0], actor.actions(obs, True))
        found = session.run(list(OUTPUTS), {name: part.numpy() for name, part in obs.items()})
        for part, wanted in zip(found, expected, strict=True):
            assert part.shape == (size, spec.action_dim) and part.dtype == np.float32
            np.testing.assert_allclose(part, wanted, rtol=1e-5, atol=1e-5)


def test_onnx_file_is_one_whole_file_without_paths_of_this_machine(exported):
    import onnx

    model = onnx.load(exported[2] / MODEL, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    shapes = {part.name: part.type.tensor_type.shape.dim[0].dim_param for part in model.graph.input}
    assert shapes == {"floats": "batch", "images": "batch", "window": "batch"}
    data = (exported[2] / MODEL).read_bytes()
    assert str(ROOT).encode() not in data and b"site-packages" not in data and b".py" not in data


def test_model_asks_only_for_the_parts_that_the_policy_uses(exported_model):
    """A policy without context encoder needs no window, though the environment builds one."""
    _, spec, folder = exported_model("droq")
    assert set(spec.observation_space()) == {"floats", "images", "window"}
    import onnx

    model = onnx.load(folder / MODEL)
    assert {part.name for part in model.graph.input} == {"floats", "images"}


@pytest.mark.e2e
def test_worker_drives_the_simulator_along_the_same_trajectory(tmp_path):
    actor, spec = make_run(tmp_path / "run", *TINY)
    folder = export(tmp_path / "run")
    config = compose(*TINY)

    def drive(actor_cls, model_path):
        worker = RolloutWorker(
            env_cls=lambda: make_env(config.env, (1,), 3),
            actor_module_cls=actor_cls,
            model_path=str(model_path),
            standalone=True,
        )
        obs, _ = worker.reset(collect_samples=False)
        steps, over = [], False
        while not over:
            np.testing.assert_allclose(worker.act(obs, test=True), act(actor, obs), rtol=0, atol=1e-5)
            obs, reward, terminated, truncated, _ = worker.step(obs, test=True, collect_samples=False)
            steps.append([*obs["floats"], reward])
            over = terminated or truncated
        return np.array(steps)

    original = drive(lambda **_: actor, tmp_path / "none")
    exported = drive(lambda **spaces: BundleActor(**spaces, folder=folder), folder / MODEL)
    assert len(original) > 20
    np.testing.assert_allclose(exported, original, rtol=1e-3, atol=1e-3)


def test_actor_acts_the_same_whatever_device_the_worker_names(exported):
    _, spec, folder = exported
    bundle, obs = BundleActor(folder=folder), split(make_observations(spec, 2))[1]
    moved = BundleActor(folder=folder).to_device("cuda:0").load(folder / MODEL, device="cuda:0")
    np.testing.assert_array_equal(moved.act_(obs, test=True), bundle.act_(obs, test=True))


def test_model_is_saved_and_loaded_as_the_worker_does(exported, tmp_path):
    _, spec, folder = exported
    bundle = BundleActor(folder=folder)
    bundle.save(tmp_path / "worker.tmod")
    assert (tmp_path / "worker.tmod").read_bytes() == (folder / MODEL).read_bytes()
    obs = split(make_observations(spec, 2))[1]
    before = bundle.act(obs, test=True)
    assert bundle.load(str(tmp_path / "worker.tmod"), device="cpu") is bundle
    np.testing.assert_array_equal(bundle.act(obs, test=True), before)


def test_observations_are_built_as_in_training(exported):
    _, spec, _ = exported
    module: dict = {"__name__": "observation"}
    exec(compile(observation_source(), "observation.py", "exec"), module)
    # The description is JSON, which has no tuples.
    copied = module["ObservationSpec"](**json.loads(json.dumps(asdict(spec))))
    assert copied.observation_space() == spec.observation_space() and copied.action_space() == spec.action_space()
    builders = ObservationBuilder(spec), module["ObservationBuilder"](copied)
    draw = np.random.default_rng(0)
    for step in range(80):  # the histories move to the front after 64
        sensors = draw.normal(size=spec.sensors).astype(np.float32)
        frame = draw.integers(0, 256, spec.image_shape[1:], np.uint8)
        action = draw.uniform(-1, 1, spec.action_dim)
        observations = [
            builder.append(sensors, frame, action, step) if step else builder.reset(sensors, frame)
            for builder in builders
        ]
        assert all(np.array_equal(observations[0][name], observations[1][name]) for name in observations[0])


@pytest.mark.parametrize("env", ["sim", "sim_lidar", "car_racing", "gym", "trackmania"])
def test_interface_describes_every_part_that_somebody_must_provide(env):
    config = compose(*with_requirements(f"env={env}"))
    words = describe_interface(config.env)
    assert {"sensors", "action"} <= words.keys()
    assert ("images" in words) is config.env.images


# ------------------------------------------------------------------------------------------------ independence


def test_readme_drives_without_this_program(exported, tmp_path):
    """The code of README.md as it is, in a process that has the exported files and the packages it names alone."""
    actor, spec, folder = exported
    drive, infer = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    home, alone = tmp_path / "home", tmp_path / "alone"
    config = home / "TmrlData" / "config" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(tmrl_api._MINIMAL_CONFIG))
    alone.mkdir()
    for name in FILES:
        (alone / name).write_bytes((folder / name).read_bytes())
    judge = (
        "import sys\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('app', 'tests')]\n"
        "obs, _ = worker.reset(collect_samples=False)\n"
        "np.savez('seen.npz', action=worker.act(obs, test=True), onnx=action, **obs)\n"
    )
    (alone / "drive.py").write_text(drive + infer + judge)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HOME": str(home), "USERPROFILE": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "drive.py"], cwd=alone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = dict(np.load(alone / "seen.npz"))
    obs = {name: seen[name] for name in spec.observation_space()}
    np.testing.assert_allclose(seen["action"], act(actor, obs), atol=1e-5)
    zeros = {name: np.zeros_like(part) for name, part in obs.items()}
    np.testing.assert_allclose(seen["onnx"][0], act(actor, zeros), atol=1e-5)


def test_modules_import_only_the_packages_that_readme_names(exported):
    allowed = {"numpy", "onnxruntime", "tmrl", "gymnasium"} | {"dataclasses", "hashlib", "json", "os", "pathlib"}
    for name in ("driver.py", "observation.py"):
        tree = ast.parse((exported[2] / name).read_text())
        found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module.split(".")[0] for module in found} <= allowed


def test_driver_fits_on_a_page():
    assert len((ROOT / "app" / "export_bundle" / "driver.py").read_text().splitlines()) <= 80


def test_no_written_file_is_a_pickle(exported):
    written = {path.name: path.read_bytes() for path in exported[2].iterdir()}
    assert written.keys() == set(FILES)
    for name, data in written.items():
        assert not zipfile.is_zipfile(exported[2] / name)  # torch.save
        with pytest.raises(ValueError):
            list(pickletools.genops(data))
        if name != MODEL:
            assert "pickle" not in data.decode()


def test_model_consists_of_standard_operations_without_loops(exported):
    """Nothing but operations of the ONNX standard, none of which repeats or branches: every act costs the same."""
    import onnx

    model = onnx.load(exported[2] / MODEL)
    assert {entry.domain for entry in model.opset_import} == {""} and not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan", "If", "SequenceMap"}


def test_environment_and_observations_that_do_not_fit_are_refused(exported):
    _, spec, folder = exported
    with pytest.raises(BundleError, match="observation_space: images is missing"):
        BundleActor(make_spec(compose(*TINY, SHORT_WINDOW).env).observation_space(), spec.action_space(), folder=folder)
    with pytest.raises(BundleError, match="action_space"):
        BundleActor(spec.observation_space(), make_spec(compose(*SMALLEST).env).action_space(), folder=folder)
    bundle, obs = BundleActor(folder=folder), split(make_observations(spec, 1))[0]
    with pytest.raises(BundleError, match="images is float32"):
        bundle.act({**obs, "images": obs["images"].astype(np.float32)})
    with pytest.raises(BundleError, match="floats is float32 of shape"):
        bundle.act({**obs, "floats": np.tile(obs["floats"], 2)})
    with pytest.raises(BundleError, match="window is missing"):
        bundle.act({name: part for name, part in obs.items() if name != "window"})


# ------------------------------------------------------------------------------------------------ the command


def test_run_without_a_best_policy_is_refused_as_evaluate_does(tmp_path):
    path = tmp_path / "run"
    make_run(path, *SMALLEST)
    RunFolder(path).best_actor.unlink()
    with pytest.raises(UserError, match="a run without a best policy yet") as refused:
        export(path)
    evaluate = EvaluateConfig(str(path), None, "spread", None, None, 1, 0, "cpu", 1, 0, False, 64, None)
    with pytest.raises(UserError) as also:
        evaluate_run(evaluate)
    assert str(refused.value) == str(also.value)
    with pytest.raises(UserError, match="holds no run"):
        export(tmp_path / "nobody")


def test_folder_of_somebody_else_is_left_alone(small_run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("thesis.txt", "README.md", "actor.json"):  # also where a name is one of ours
        (mine / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds {name}, which no export wrote"):
            export(small_run, folder=mine)
        assert [(path.name, path.read_text()) for path in mine.iterdir()] == [(name, "mine")]
        (mine / name).unlink()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        export(small_run, folder=tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        export(small_run, folder=tmp_path / "file" / "below")


def test_earlier_export_stays_until_a_good_one_takes_its_place(small_run, tmp_path, monkeypatch):
    folder = export(small_run, folder=tmp_path / "out")
    (folder / "__pycache__").mkdir()
    (folder / "README.md").write_text("of an earlier export")
    (tmp_path / f".out.{2**31 - 1}.tmp").mkdir()  # of a process that was killed
    before = (folder / MODEL).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(verify, "TOLERANCE", -1.0)
        with pytest.raises(UserError, match="differs from the original"):
            export(small_run, folder=folder)
    with monkeypatch.context() as patch:
        patch.setattr("app.export_bundle.bundle.shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(UserError, match=r"out: cannot be written \(full\)"):
            export(small_run, folder=folder)
    assert (folder / "README.md").read_text() == "of an earlier export" and (folder / MODEL).read_bytes() == before
    export(small_run, folder=folder)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (folder / "README.md").read_text() != "of an earlier export"
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]


def test_export_of_an_older_format_is_replaced(small_run, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "actor.json").write_text('{"format": 2, "observation": {}, "program": {}}')
    for name in ("actor.safetensors", "driver.py", "observation.py", "README.md"):
        (folder / name).write_text("of format 2")
    export(small_run, folder=folder)
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_actor_that_acts_differently_is_not_handed_out(small_run, monkeypatch):
    acts = BundleActor.act
    monkeypatch.setattr(BundleActor, "act", lambda *args, **kwargs: acts(*args, **kwargs) + np.float32(2e-5))
    with pytest.raises(UserError, match="differs from the original by 2.*e-05"):
        export(small_run)
    assert not (small_run / "export").exists()


def test_model_that_does_not_run_is_not_handed_out(small_run, monkeypatch):
    monkeypatch.setattr(export_run, "to_onnx", lambda *_: make_graph(outputs=("action", "mean")))
    with pytest.raises(UserError, match="does not run: .* Nothing was written"):
        export(small_run)
    assert not (small_run / "export").exists()


def test_missing_packages_are_named_with_the_command_that_installs_them(small_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r'needs onnxruntime, .*pip install .*"\.\[export\]"'):
        export(small_run)
    assert not (small_run / "export").exists()


def test_removed_key_is_refused_with_the_reason():
    assert unknown_key("onnx", ExportConfig).startswith("onnx no longer exists: the ONNX file is the exported actor")


@pytest.mark.e2e
def test_command_reports_its_files_and_leaves_the_home_alone(tmp_path):
    """Neither warnings of torch show, nor does onnxruntime write its number of the machine."""
    make_run(tmp_path / "run", *IMAGES)
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "app/export.py", f"run={tmp_path}/run"]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert f"  {name} " in done.stdout and (tmp_path / "run" / "export" / name).is_file()
    assert "checked on 8 observations" in done.stdout
    assert done.stderr == "" and not list(home.iterdir())
