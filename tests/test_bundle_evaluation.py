"""Evaluation of somebody else's exported folder: its figures, and that nothing in it is run or believed."""

import hashlib
import json
import os
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.core.errors import UserError
from app.envs.env_factory import make_spec
from app.export_bundle.driver import DESCRIPTION, FORMAT, MODEL, OUTPUTS
from app.export_bundle.read_bundle import limited_memory, read_bundle
from app.runs.fingerprint import fingerprint
from app.training.evaluate_run import evaluate_run
from tests.helpers.make import compose
from tests.helpers.onnx_files import make_graph
from tests.helpers.runs import TINY
from tests.test_competition import config

CONFIG = compose(*TINY, "env.max_steps=30")
SPEC = make_spec(CONFIG.env)
GAS = (1.0, 0.0, 0.0)


def graph(action=GAS, log_std=-1.0, more=(), weights=None, domain="") -> bytes:
    """Policy that always acts the same; ``more`` are nodes of its own."""
    zeros = np.zeros((SPEC.float_dim, 3), np.float32) if weights is None else weights
    tensors = [numpy_helper.from_array(zeros, "zeros")]
    for name, value in zip(OUTPUTS, (action, action, (log_std,) * 3), strict=True):
        tensors.append(numpy_helper.from_array(np.array(value, np.float32), f"{name}_bias"))
    nodes = [helper.make_node("Gemm", ["floats", "zeros", f"{name}_bias"], [name]) for name in OUTPUTS]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in OUTPUTS]
    inputs = [helper.make_tensor_value_info("floats", TensorProto.FLOAT, ["batch", SPEC.float_dim])]
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_graph([*more, *nodes], "policy", inputs, ends, tensors)
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def described(**changed) -> dict:
    made_under = json.loads(json.dumps(fingerprint(CONFIG)))
    made_under |= {key: value for key, value in changed.items() if key.startswith("env.")}
    return {
        "format": FORMAT, "run": "x", "observation": json.loads(json.dumps(asdict(SPEC))), "fingerprint": made_under,
        "reached": {"lap_share_det": 0.75, "lap_time_det": 31.5, "return_test_det": "<b>"},
    } | {key: value for key, value in changed.items() if not key.startswith("env.")}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    """An exported folder whose Python files would leave a mark."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("driver.py", "observation.py", "sitecustomize.py", "tmrl.py", "onnx.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'hacked')!r}, 'w')\n")
    return put(folder)


def put(folder, model=None, description=None):
    model = graph() if model is None else model
    content = {**(description or described()), "sha256": hashlib.sha256(model).hexdigest()}
    (folder / MODEL).write_bytes(model)
    (folder / DESCRIPTION).write_text(json.dumps(content))
    return folder


def evaluate(bundle, **changed) -> dict:
    changed = {"run": None, "bundle": str(bundle), "protocol": "spread", "episodes": 2, **changed}
    evaluate_run(replace(config("none"), **changed))
    return json.loads((bundle.parent / "bundle-evaluation" / "evaluation.json").read_text())


def test_figures_are_those_of_the_policy_in_the_file(bundle, capsys):
    fast = evaluate(bundle)
    assert {one["outcome"] for one in fast["deterministic"]} <= {"off_track", "timeout"}
    slow = evaluate(put(bundle, graph(action=(0.2, 0.0, 0.0))))
    assert fast["metrics"]["return_test_det"] > 1.5 * slow["metrics"]["return_test_det"] > 0
    assert "its actor.json says: covered share 75 %, lap time 0:31.500" in capsys.readouterr().out


def test_sampled_actions_are_drawn_from_the_gaussian_and_repeat_with_the_seed(bundle):
    returns = [evaluate(bundle, episodes_stochastic=2, seed=seed)["stochastic"][0]["ret"] for seed in (1, 1, 2)]
    assert returns[0] == returns[1] != returns[2]


def test_no_python_file_of_a_bundle_is_imported_or_run(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(bundle)
    before = list(sys.path)
    evaluate(bundle)
    assert not (tmp_path / "hacked").exists() and "driver" not in sys.modules and sys.path == before


def test_nothing_is_written_into_the_bundle(bundle, tmp_path):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    evaluate(bundle, video=True)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert (tmp_path / "bundle-evaluation" / "videos" / "evaluation.mp4").is_file()
    evaluate_run(replace(config("none"), run=None, bundle=str(bundle), episodes=10, folder=str(tmp_path / "mine")))
    assert json.loads((tmp_path / "mine" / "competition.json").read_text())["run_name"] == "bundle"


HUGE = helper.make_node(
    "ConstantOfShape", ["shape"], ["huge"], value=helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
)
SHAPE = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1 << 38], np.int64)))
SUM = helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0)
FOREVER = helper.make_node(
    "Loop", ["", "", "floats"], ["after"],
    body=helper.make_graph([], "body", [], []),
)  # fmt: skip


@pytest.mark.parametrize("part", ["initializer", "constant", "sparse"])
def test_weights_in_other_files_are_refused_wherever_the_graph_names_them(part, bundle):
    with pytest.raises(UserError, match="actor.onnx keeps weights in other files"):
        read_bundle(put(bundle, make_graph(external="secret.bin", place=part)))


def test_refusal_has_no_character_that_a_terminal_obeys(bundle):
    with pytest.raises(UserError) as error:
        read_bundle(put(bundle, description=described(observation={"\x1b]0;title\x07": 1})))
    assert str(error.value).isprintable() and "x1b]0;title" in str(error.value)


@pytest.mark.parametrize(
    "model, sentence",
    [
        (b"", "actor.onnx"),
        (b"\x80\x04import os", "actor.onnx is no ONNX file"),
        (graph()[:-20], "actor.onnx"),
        (graph(more=[FOREVER]), r"actor.onnx has control flow \('Loop'\)"),
        (graph(more=[helper.make_node("PyOp", ["floats"], ["y"], domain="evil")], domain="evil"), "is not standard"),
        (graph(more=[SHAPE, HUGE, SUM]), "actor.onnx"),
        (graph(weights=np.zeros((SPEC.float_dim + 1, 3), np.float32)), "actor.onnx"),
    ],
)
def test_file_that_is_no_plain_policy_is_refused_in_one_sentence(bundle, model, sentence):
    with limited_memory(), pytest.raises(UserError, match=sentence) as error:
        read_bundle(put(bundle, model))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"bundle = {bundle}: ")


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"format": 2}, "has format 2"),
        ({"fingerprint": None}, "does not say what the policy was trained under"),
        ({"observation": [1]}, "does not say what an observation is"),
        ({"observation": {"sensors": 22}}, "its observations are not those of its environment here"),
        ({"env.kind": "os.system"}, r"of a kind that this version does not have \('os.system'\)"),
        ({"env.kind": ["sim"]}, "of a kind that this version does not have"),
        ({"env.kind": "trackmania"}, "it drives the game; a worker of tmrl judges it there"),
        ({"env.lidar_beams": 10**9}, r"its env.lidar_beams = 1e\+09 is more than 5000"),
        ({"env.step_s": float("nan")}, "its env.step_s = nan is more than"),
        ({"env.window": 17}, r"its observations are not those of its environment here \(window\)"),
        ({"env.image_size": "big"}, "its environment is not valid: env.*image_size"),
        ({"env.secret": 1}, "its environment is not valid: env.*secret"),
    ],
)
def test_description_that_is_no_policy_of_ours_is_refused_in_one_sentence(bundle, changed, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read_bundle(put(bundle, description=described(**changed)))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"bundle = {bundle}: ")


def test_task_that_would_import_a_module_is_refused(bundle, tmp_path, monkeypatch):
    (bundle / "evil.py").write_text(f"open({str(tmp_path / 'hacked')!r}, 'w')")
    monkeypatch.syspath_prepend(str(bundle))
    gym = compose("env=gym", "model=mlp")
    made_under = json.loads(json.dumps(fingerprint(gym))) | {"env.id": "evil:Task-v0"}
    with pytest.raises(UserError, match="names the module evil, which is code.* add env_module=evil"):
        read_bundle(put(bundle, description=described(fingerprint=made_under)))
    assert not (tmp_path / "hacked").exists()
    with pytest.raises(UserError, match="Environment `Task` doesn't exist"):
        evaluate_run(replace(config("none"), run=None, bundle=str(bundle), protocol="spread", env_module="evil"))
    assert (tmp_path / "hacked").exists()
    del sys.modules["evil"]


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"xml_file": "../../x.xml"}, "its env.kwargs.xml_file = '../../x.xml' is no word, and might name a file"),
        ({"a": [{"b": "x.xml"}]}, "its env.kwargs.a.0.b = 'x.xml' is no word"),
        ({"size": [10**12]}, r"its env.kwargs.size.0 = 1e\+12 is more than 5000"),
        ({"render_mode": "human"}, "render_mode is no argument of the task"),
        ({"g": {"a": {}}}, "cannot be made|its observations are not those"),
    ],
)
def test_argument_that_is_large_or_may_name_a_file_is_refused(bundle, kwargs, sentence):
    made_under = json.loads(json.dumps(fingerprint(compose("env=gym", "model=mlp")))) | {"env.kwargs": kwargs}
    with pytest.raises(UserError, match=sentence):
        read_bundle(put(bundle, description=described(fingerprint=made_under)))


def test_files_that_are_missing_too_large_or_no_files_are_refused_in_one_sentence(bundle, tmp_path):
    with pytest.raises(UserError, match="actor.json cannot be read .*Name a folder that app/export.py wrote"):
        read_bundle(tmp_path)
    (bundle / DESCRIPTION).write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UserError, match="actor.json has 1,048,577 bytes, and at most"):
        read_bundle(bundle)
    put(bundle)
    (bundle / MODEL).unlink()
    os.mkfifo(bundle / MODEL)  # reading it would wait forever
    with pytest.raises(UserError, match="actor.onnx is no regular file"):
        read_bundle(bundle)


def test_action_that_is_not_finite_ends_the_evaluation_in_one_sentence(bundle):
    with pytest.raises(UserError, match="gave an action that is not finite"):
        evaluate(put(bundle, graph(action=(float("nan"), 0.0, 0.0))))


def test_run_and_bundle_exclude_each_other_and_one_is_needed(bundle):
    with pytest.raises(UserError, match="^run: is missing. .* For a folder that app/export.py wrote, write bundle="):
        evaluate_run(replace(config("none"), run=None))
    with pytest.raises(UserError, match="run and bundle exclude each other"):
        evaluate_run(replace(config("runs/x"), bundle=str(bundle)))
    with pytest.raises(UserError, match="device = cuda: the policy of a bundle runs on the CPU"):
        evaluate(bundle, device="cuda")


def test_memory_of_the_process_is_unlimited_again():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited_memory():
        assert resource.getrlimit(resource.RLIMIT_AS) != before
    assert resource.getrlimit(resource.RLIMIT_AS) == before
