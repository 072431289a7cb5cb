"""Exported actors: what they give, what they refuse, and that they need nothing of this program."""

import ast
import json
import os
import pickletools
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app import tmrl_api
from app.config.schema import EvaluateConfig, ExportConfig
from app.envs.factory import make_env, make_spec
from app.envs.observation import ObservationBuilder
from app.errors import UserError
from app.export_bundle import check, export, onnx_file
from app.export_bundle.bundle import FILES, ONNX, observation_source
from app.export_bundle.check import make_observations
from app.export_bundle.driver import BundleActor, BundleError
from app.export_bundle.meaning import meaning
from app.export_bundle.program import Policy
from app.models.actor import DrivingActor
from app.runs.config_file import write_config
from app.runs.fingerprint import fingerprint
from app.runs.folder import RunFolder
from app.tmrl_api import RolloutWorker
from app.training.assess import assess
from tests.make import compose, with_company
from tests.runs import ROOT, TINY

STAGES = ",".join(
    f"{{expand:{expand},channels:8,blocks:1,stride:{stride},se:{se}}}"
    for expand, stride, se in ((1, 1, "false"), (2, 2, "false"), (2, 1, "true"))
)
IMAGES = (
    *TINY, "env.images=true", "env.image_size=16", "model.image_dim=8", "norm.groups=4",
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
    "lidar": TINY,
    "droq": (*PLAIN, "model=droq"),
    "shared": (*PLAIN, "model=shared_backbone"),
    "gym": SMALLEST,
}


def make_run(path, *overrides):
    """A folder as a run leaves it, and its best actor: every weight and statistic differs from what it began with."""
    config = compose(*overrides)
    spec = make_spec(config.env)
    torch.manual_seed(0)
    actor = DrivingActor(spec.space(), spec.action_space(), config, spec)
    for name, part in actor.state_dict().items():
        if part.is_floating_point():
            part += torch.rand_like(part) if name.endswith("running_var") else 0.05 * torch.randn_like(part)
    folder = RunFolder(path)
    write_config(folder.config, config)
    folder.save_best(actor, actor, {"return_test_det": 12.5, "best_epoch": 3}, fingerprint(config))
    return actor, spec


def export_run(path, onnx=False, folder=None):
    return export.export(ExportConfig(run=str(path), folder=folder and str(folder), onnx=onnx))


def act(actor, obs, test):
    torch.manual_seed(7)
    return actor.act(obs, test)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The real command on a run with images: actor, spec, what the command said, and its home."""
    path = tmp_path_factory.mktemp("runs")
    actor, spec = make_run(path / "small", *IMAGES)
    home = path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "app/export.py", f"run={path}/small"]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return actor, spec, path / "small" / "export", done, home


@pytest.fixture
def exported(command):
    """Actor, spec, and the folder that holds everything that is exported of it; not to be changed."""
    return command[:3]


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the bundle to be damaged."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for name in ("actor.json", "actor.safetensors"):
        (folder / name).write_bytes((exported[2] / name).read_bytes())
    return folder


def change(folder, change_program):
    """Change the program that actor.json lists."""
    description = json.loads((folder / "actor.json").read_text())
    change_program(description["program"])
    (folder / "actor.json").write_text(json.dumps(description))


# ------------------------------------------------------------------------------------------------ what it gives


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.slow] * (model == "default")) for model in MODELS]
)
def test_bundle_acts_as_the_actor(model, tmp_path):
    """Modes and drawn actions, for plausible observations, and for those that no track shows."""
    actor, spec = make_run(tmp_path / "run", *MODELS[model])
    bundle = BundleActor(spec.space(), spec.action_space(), folder=export_run(tmp_path / "run"))
    obs, actions = make_observations(spec, 4), []
    for extreme in (1.0, 1e3):
        for i in range(4):
            row = {name: part[i : i + 1] * (extreme if part.is_floating_point() else 1) for name, part in obs.items()}
            for test in (True, False):
                actions.append(act(actor, row, test))
                np.testing.assert_allclose(act(bundle, row, test), actions[-1], rtol=0, atol=1e-6)
    assert np.std(actions, axis=0).min() > 0.01  # the network says something


def test_onnx_gives_what_the_actor_gives_for_any_batch(exported):
    actor, spec, folder = exported
    session = onnx_file.OnnxActor(folder / ONNX)
    for size in (1, 5):
        obs = make_observations(spec, size + 1)
        obs = {name: part[1:] for name, part in obs.items()}
        policy = Policy(actor.net)(**obs)
        assert torch.equal(policy[0], actor.actions(obs, True))
        for found, wanted in zip(session.run(obs), policy, strict=True):
            assert found.shape == (size, spec.action_dim) and found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_onnx_file_is_one_whole_file_without_paths_of_this_machine(exported):
    import onnx

    model = onnx.load(exported[2] / ONNX, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    shapes = {part.name: part.type.tensor_type.shape.dim[0].dim_param for part in model.graph.input}
    assert shapes == {"floats": "batch", "images": "batch", "window": "batch"}
    data = (exported[2] / ONNX).read_bytes()
    assert str(ROOT).encode() not in data and b"site-packages" not in data and b".py" not in data


def test_worker_drives_the_simulator_along_the_same_trajectory(tmp_path):
    actor, spec = make_run(tmp_path / "run", *TINY)
    folder = export_run(tmp_path / "run")
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
            obs, reward, terminated, truncated, _ = worker.step(obs, test=True, collect_samples=False)
            steps.append([*obs["floats"], reward])
            over = terminated or truncated
        return np.array(steps)

    ours = drive(lambda **_: actor, tmp_path / "none")
    theirs = drive(lambda **spaces: BundleActor(**spaces, folder=folder), folder / "actor.safetensors")
    assert len(ours) > 20
    np.testing.assert_array_equal(theirs, ours)


def test_bundle_moves_to_another_device_as_a_whole(exported):
    """A tensor that the program makes on the CPU would meet those on the GPU."""
    actor, spec, folder = exported
    bundle = BundleActor(folder=folder).to_device("meta")
    obs = {name: part[:1].to("meta") for name, part in make_observations(spec, 1).items()}
    assert {part.device.type for part in bundle.evaluate(obs)} == {"meta"}


def test_weights_are_saved_and_loaded_as_the_worker_does(exported, tmp_path):
    """Weights that come later replace those of the bundle, in the file format of the bundle."""
    _, spec, folder = exported
    one, other = BundleActor(folder=folder), BundleActor(folder=folder)
    for part in one.weights.buffers():
        part *= 0.5
    one.save(tmp_path / "worker.tmod")
    obs = {name: part[1:] for name, part in make_observations(spec, 2).items()}
    before = other.act(obs, test=True)
    assert other.load(str(tmp_path / "worker.tmod"), device="cpu") is other
    np.testing.assert_array_equal(other.act(obs, test=True), one.act(obs, test=True))
    assert np.abs(other.act(obs, test=True) - before).max() > 1e-3


def test_weights_file_that_is_written_anew_leaves_the_running_actor_alone(exported, copied):
    """A worker writes new weights into the file that the actor was loaded from."""
    bundle, obs = BundleActor(folder=copied), make_observations(exported[1], 1)
    before = bundle.act(obs, test=True)
    path = copied / "actor.safetensors"
    with path.open("r+b") as file:  # in place, as long as before
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(bundle.act(obs, test=True), before)


def test_observations_are_built_as_in_training(exported):
    _, spec, _ = exported
    module: dict = {"__name__": "observation"}
    exec(compile(observation_source(), "observation.py", "exec"), module)
    copied = module["ObservationSpec"](**asdict(spec))
    assert copied.space() == spec.space() and copied.action_space() == spec.action_space()
    builders = ObservationBuilder(spec), module["ObservationBuilder"](copied)
    draw = np.random.default_rng(0)
    for step in range(80):  # the histories move to the front after 64
        sensors = draw.normal(size=spec.sensors).astype(np.float32)
        frame = draw.integers(0, 256, spec.image_shape[1:], np.uint8)
        action = draw.uniform(-1, 1, spec.action_dim)
        seen = [
            builder.append(sensors, frame, action, step) if step else builder.reset(sensors, frame)
            for builder in builders
        ]
        assert all(np.array_equal(seen[0][name], seen[1][name]) for name in seen[0])


@pytest.mark.parametrize("env", ["sim", "sim_lidar", "car_racing", "gym", "trackmania"])
def test_meaning_names_every_part_that_somebody_must_provide(env):
    config = compose(*with_company(f"env={env}"))
    words = meaning(config.env)
    assert {"sensors", "action"} <= words.keys()
    assert ("images" in words) is config.env.images


# ------------------------------------------------------------------------------------------------ alone


def test_readme_drives_without_this_program(exported, tmp_path):
    """The code of README.md as it is, in a process that has the bundle and the packages it names, and nothing else."""
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
    obs = {name: torch.from_numpy(seen[name][None]) for name in spec.space()}
    np.testing.assert_allclose(seen["action"], actor.act(obs, test=True), atol=1e-5)
    zeros = {name: torch.zeros_like(part) for name, part in obs.items()}
    np.testing.assert_allclose(seen["onnx"][0], actor.act(zeros, test=True), atol=1e-5)


def test_modules_import_only_what_readme_names(exported):
    allowed = {"torch", "numpy", "safetensors", "tmrl", "gymnasium"} | {"collections", "dataclasses", "json"}
    for name in ("driver.py", "observation.py"):
        tree = ast.parse((exported[2] / name).read_text())
        found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module.split(".")[0] for module in found} <= allowed | {"operator", "pathlib", "typing"}


def test_no_written_file_is_a_pickle(exported):
    written = {path.name: path.read_bytes() for path in exported[2].iterdir()}
    assert written.keys() == set(FILES)
    for name, data in written.items():
        assert not zipfile.is_zipfile(exported[2] / name)  # torch.save
        with pytest.raises(ValueError):
            list(pickletools.genops(data))
        if name not in ("actor.safetensors", ONNX):
            assert "pickle" not in data.decode()


# ------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    "op",
    ["from_file.default", "save.default", "aten.add.Tensor", "prim.Print", "__class__", "add.Tensor.__globals__", ""],
)
def test_operation_outside_the_list_is_refused(op, copied):
    change(copied, lambda program: program["nodes"][0].update(op=op))
    with pytest.raises(BundleError, match="actor.json: the operation .* is none of those"):
        BundleActor(folder=copied)


def test_every_listed_operation_calculates():
    """A schema that takes text or gives no tensor belongs to an operation that does something else."""
    from app.export_bundle.driver import OPERATIONS

    for name in OPERATIONS:
        operation, overload = name.split(".")
        schema = getattr(getattr(torch.ops.aten, operation), overload)._schema
        assert all("Tensor" in str(part.type) for part in schema.returns) and schema.returns
        assert not any("str" in str(part.type) for part in schema.arguments)


@pytest.mark.parametrize(
    "damage",
    [
        lambda program: program.pop("nodes"),
        lambda program: program.update(outputs={"action": "floats", "mean": "floats", "log_std": "floats"}),
        lambda program: program["inputs"]["floats"].update(shape=[3]),
        lambda program: program["inputs"]["floats"].update(dtype="object"),
        lambda program: program["tensors"].update(forward=program["tensors"].popitem()[1]),
        lambda program: program["nodes"].reverse(),
        lambda program: program["nodes"].append(program["nodes"][0]),
        lambda program: program["nodes"][0].update(args=[{"value": "nobody"}]),
        lambda program: program["nodes"][0].update(args=["text"]),
        lambda program: program["nodes"][0].update(args=[]),
        lambda program: program["nodes"][0].update(op=["add.Tensor"]),
        lambda program: program.update(nodes=7),
    ],
)
def test_damaged_program_is_refused_before_it_drives(damage, copied):
    change(copied, damage)
    with pytest.raises(BundleError, match="actor.json"):
        BundleActor(folder=copied)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "[" * 100_000])
def test_file_that_is_no_description_is_refused(text, copied):
    (copied / "actor.json").write_text(text)
    with pytest.raises(BundleError, match="actor.json"):
        BundleActor(folder=copied)


def test_weights_of_another_actor_are_refused(copied, tmp_path):
    path = copied / "actor.safetensors"
    tensors = {name: part.clone() for name, part in load_file(path).items()}  # the file is written anew below
    name, tensor = max(tensors.items(), key=lambda item: item[1].numel())
    others = {
        "is missing": {key: part for key, part in tensors.items() if key != name},
        "of shape": {**tensors, name: tensor[..., :-1].contiguous()},
        "float64": {**tensors, name: tensor.double()},
        "holds more": {**tensors, "more": torch.zeros(1)},
    }
    bundle = BundleActor(folder=copied)
    for words, other in others.items():
        save_file(other, tmp_path / "other.safetensors")
        with pytest.raises(BundleError, match=words):
            bundle.load(tmp_path / "other.safetensors", "cpu")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="cannot be loaded"):
        BundleActor(folder=copied)
    torch.save(tensors, path)
    with pytest.raises(BundleError, match="cannot be loaded"):
        BundleActor(folder=copied)


def test_environment_and_observations_that_do_not_fit_are_refused(exported):
    _, spec, folder = exported
    with pytest.raises(BundleError, match="observation_space: images"):
        BundleActor(make_spec(compose(*TINY).env).space(), spec.action_space(), folder=folder)
    with pytest.raises(BundleError, match="action_space"):
        BundleActor(spec.space(), make_spec(compose(*SMALLEST).env).action_space(), folder=folder)
    bundle, obs = BundleActor(folder=folder), make_observations(spec, 1)
    with pytest.raises(BundleError, match="images is float32"):
        bundle.act({**obs, "images": obs["images"].float()})
    with pytest.raises(BundleError, match="floats is float32 of shape"):
        bundle.act({**obs, "floats": obs["floats"].repeat(2, 1)})
    with pytest.raises(BundleError, match="window is missing"):
        bundle.act({name: part for name, part in obs.items() if name != "window"})


# ------------------------------------------------------------------------------------------------ the command


def test_run_without_a_best_policy_is_refused_as_evaluate_does(tmp_path):
    path = tmp_path / "run"
    make_run(path, *SMALLEST)
    RunFolder(path).best_actor.unlink()
    with pytest.raises(UserError, match="a run without a best policy yet") as refused:
        export_run(path)
    evaluate = EvaluateConfig(str(path), None, 1, 0, "cpu", 1, 0, False, 64)
    with pytest.raises(UserError) as also:
        assess(evaluate)
    assert str(refused.value) == str(also.value)
    with pytest.raises(UserError, match="holds no run"):
        export_run(tmp_path / "nobody")


def test_folder_of_somebody_else_is_left_alone(tmp_path):
    make_run(tmp_path / "run", *SMALLEST)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("thesis.txt", "README.md", "actor.json"):  # also where a name is one of ours
        (mine / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds {name}, which no export made"):
            export_run(tmp_path / "run", folder=mine)
        assert [(path.name, path.read_text()) for path in mine.iterdir()] == [(name, "mine")]
        (mine / name).unlink()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        export_run(tmp_path / "run", folder=tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        export_run(tmp_path / "run", folder=tmp_path / "file" / "below")


def test_earlier_export_stays_until_a_good_one_takes_its_place(tmp_path, monkeypatch):
    make_run(tmp_path / "run", *SMALLEST)
    folder = export_run(tmp_path / "run", folder=tmp_path / "out")
    (folder / "__pycache__").mkdir()
    (folder / ONNX).write_text("of an earlier export")
    (tmp_path / f".out.{2**31 - 1}.tmp").mkdir()  # of a process that was killed
    before = (folder / "actor.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(check, "TOLERANCE", -1.0)
        with pytest.raises(UserError, match="differs from the actor"):
            export_run(tmp_path / "run", folder=folder)
    with monkeypatch.context() as patch:
        patch.setattr("app.export_bundle.bundle.save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(UserError, match=r"out: cannot be written \(full\)"):
            export_run(tmp_path / "run", folder=folder)
    assert (folder / ONNX).exists() and (folder / "actor.safetensors").read_bytes() == before
    export_run(tmp_path / "run", folder=folder)
    assert {path.name for path in folder.iterdir()} == set(FILES) - {ONNX}
    assert sorted(os.listdir(tmp_path)) == ["out", "run"]


def test_bundle_that_says_something_else_is_not_handed_out(tmp_path, monkeypatch):
    make_run(tmp_path / "run", *SMALLEST)
    evaluate = BundleActor.evaluate
    monkeypatch.setattr(BundleActor, "evaluate", lambda *args: [part + 2e-5 for part in evaluate(*args)])
    with pytest.raises(UserError, match="The bundle differs from the actor by 2.*e-05"):
        export_run(tmp_path / "run")
    assert not (tmp_path / "run" / "export").exists()


def test_missing_onnx_packages_are_named_with_both_ways_out(tmp_path, monkeypatch):
    make_run(tmp_path / "run", *SMALLEST)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r'needs onnxruntime, .*"\.\[export\]".* onnx=false'):
        export_run(tmp_path / "run", onnx=True)
    assert not (tmp_path / "run" / "export").exists()
    assert not (export_run(tmp_path / "run") / ONNX).exists()


def test_command_says_what_it_wrote_and_leaves_the_home_alone(command):
    """What is not asked for must not show: warnings of torch; nor be written: onnxruntime's number of the machine."""
    _, _, folder, done, home = command
    for name in FILES:
        assert f"  {name} " in done.stdout and (folder / name).is_file()
    assert "the bundle gives" in done.stdout and "the ONNX file gives" in done.stdout
    assert done.stderr == "" and not list(home.iterdir())
