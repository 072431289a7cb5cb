import dataclasses
import os
import pickle
import subprocess
import sys

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from app.config import checks, schema
from app.config.describe import known_keys
from app.config.load import ConfigError, load
from app.config.schema import Config
from app.tmrl_api import TorchTrainingOffline
from tests.make import CONF, OPTIONS, with_company

ROOT = CONF.parent
FAULTS = ["norm=batch", "encoder.dropout=0.1", "actor.detach=false", "log_std_min=-2"]


def raw(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF)):
        return hydra_compose("config", list(overrides))


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(ROOT / "app" / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def switches(config: Config) -> tuple[str, float, bool, float]:
    """The four switches of the faults 1 to 5."""
    return config.norm.kind, config.encoder.dropout, config.actor.detach, config.actor.log_std_min


# --- what composes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(compose, option):
    assert isinstance(compose(*with_company(option)), Config)


@pytest.mark.parametrize("model", ["droq_contextual", "droq", "shared_backbone", "mlp"])
@pytest.mark.parametrize("env", ["sim", "sim_lidar", "car_racing", "gym"])
def test_every_model_composes_on_every_environment_it_fits(compose, model, env):
    if env == "gym" and model != "mlp":
        with pytest.raises(ConfigError, match=f"model = {model}: .* Use model=mlp, or env=sim"):
            compose(f"model={model}", f"env={env}")
    else:
        assert compose(f"model={model}", f"env={env}").model.name == model


def test_the_defaults_are_the_repaired_agent(compose):
    assert switches(compose()) == ("group", 0.0, True, -20)
    assert not checks.warnings(compose())


@pytest.mark.parametrize("index", range(4))
def test_every_fault_is_one_switch(compose, index):
    broken = switches(compose(FAULTS[index]))
    fixed = switches(compose())
    assert [a != b for a, b in zip(broken, fixed, strict=True)] == [i == index for i in range(4)]


def test_all_switches_together_are_the_collapse_experiment(compose):
    assert compose(*FAULTS) == compose("experiment=collapse")


@pytest.mark.parametrize(
    ("experiment", "repaired"), [("fix_norm", 0), ("fix_dropout", 1), ("fix_detach", 2), ("fix_log_std", 3)]
)
def test_every_fix_experiment_repairs_one_fault(compose, experiment, repaired):
    others = [fault for index, fault in enumerate(FAULTS) if index != repaired]
    assert compose(f"experiment={experiment}") == compose(*others)


def test_the_command_line_wins_over_experiment_and_model(compose):
    config = compose("experiment=collapse", "norm=layer", "log_std_min=-3", "model=droq", "critic=plain")
    assert switches(config) == ("layer", 0.1, False, -3)
    assert not config.critic.layer_norm


def test_a_model_picks_its_heads_and_agent(compose):
    assert compose("model=droq").critic.hidden_dim == 384
    assert compose("model=mlp", "env=gym").agent.polyak == compose("agent=sac").agent.polyak
    assert compose("model=mlp", "env=gym").replay == compose("replay=sac").replay


def test_sim_lidar_differs_from_sim_in_the_images_alone(compose):
    sim, lidar = compose("env=sim").env, compose("env=sim_lidar").env
    assert dataclasses.replace(sim, name="sim_lidar", images=False) == lidar


def test_the_run_is_named_after_what_it_is(compose):
    assert compose("model=mlp", "env=gym", "seed=3").run_name == "mlp-Pendulum-v1-seed3"


# --- YAML and schema agree -------------------------------------------------------------------------------


def test_python_holds_no_default():
    sections = [value for value in vars(schema).values() if dataclasses.is_dataclass(value)]
    assert len(sections) > 10
    for field in [field for section in sections for field in dataclasses.fields(section)]:
        assert field.default is dataclasses.MISSING is field.default_factory, field.name


@pytest.mark.parametrize("env", [["env=sim"], ["env=gym", "model=mlp"]])
def test_every_yaml_key_is_a_field_and_every_field_a_yaml_key(compose, env):
    def flat(values, prefix=""):
        for name, value in values.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")

    composed = set(flat(OmegaConf.to_container(raw(*env))))
    assert composed == set(flat(dataclasses.asdict(compose(*env))))
    assert composed <= set(known_keys(Config))


def test_every_option_of_a_group_has_the_same_keys():
    for group in sorted({option.partition("=")[0] for option in OPTIONS} - {"env", "experiment", "sweep"}):
        paths = (CONF / group.strip("+")).glob("*.yaml")
        assert len({frozenset(keys_of(path)) for path in paths}) == 1, group


def keys_of(path):
    """The keys of an option, inherited ones included."""
    option = yaml.safe_load(path.read_text("utf-8"))
    parents = [name for name in option.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    return option.keys() | {key for name in parents for key in keys_of(path.with_stem(name))}


def test_the_schedule_speaks_the_terms_of_tmrl():
    fields = {"epochs", "rounds", "steps", "max_training_steps_per_env_step", "start_training"}
    assert fields <= {field.name for field in dataclasses.fields(TorchTrainingOffline)}


def test_the_configuration_is_frozen(compose):
    with pytest.raises(dataclasses.FrozenInstanceError):
        compose().agent.gamma = 0.5


# --- wrong values ----------------------------------------------------------------------------------------

WRONG = [
    (["agent.gamma=1.2"], "agent.gamma = 1.2: must be a number at least 0 and less than 1"),
    (["agent.gamma=null"], "agent.gamma = null: must be a number at least 0 and less than 1"),
    (["agent.lr_actor=0"], "agent.lr_actor = 0: must be a number greater than 0"),
    (["agent.lr_actor=inf"], "agent.lr_actor = inf: must be a number greater than 0"),
    (["agent.grad_clip=-1"], "agent.grad_clip = -1: must be a number greater than 0 or null"),
    (["agent.betas_critic=[0.9,1]"], "agent.betas_critic = [0.9, 1]: must be a list of 2 numbers at least 0"),
    (["agent.learn_entropy_coef=maybe"], "agent.learn_entropy_coef = maybe: must be true or false"),
    (["encoder.dropout=1"], "encoder.dropout = 1: must be a number at least 0 and less than 1"),
    (["encoder.dropout=-0.1"], "encoder.dropout = -0.1: must be a number at least 0 and less than 1"),
    (["encoder.heads=5"], "encoder.heads = 5: must divide encoder.stream_dim = 32"),
    (["actor.hidden_dim=256"], "actor.hidden_dim = 256: must equal critic.hidden_dim = 128"),
    (["critic=plain"], "actor.hidden_dim = 128: must equal critic.hidden_dim = 256"),
    (["encoder.prediction_horizons=[1,1]"], "encoder.prediction_horizons = [1, 1]: must not name a value"),
    (["log_std_min=abc"], "log_std_min = abc: must be a number"),
    (["log_std_min=2"], "log_std_min = 2: must be less than actor.log_std_max = 2"),
    (["actor.log_std_min=5"], "actor.log_std_min = 5: must be less than actor.log_std_max = 2"),
    (["norm.groups=5"], "norm.groups = 5: must divide every channel count of backbone=effnet_pico"),
    (["norm.kind=grup"], "norm.kind = grup: must be one of group, batch, layer, none"),
    (["backbone.stages.0.stride=3"], "backbone.stages.0.stride = 3: must be an integer at least 1 and at"),
    (["replay.batch_size=0"], "replay.batch_size = 0: must be an integer at least 1"),
    (["replay.capacity=9", "replay.batch_size=10"], "replay.batch_size = 10: must be at most"),
    (["replay.capacity=100"], "training.start_training = 1000: must be at most replay.capacity = 100"),
    (["training.epochs=1.5"], "training.epochs = 1.5: must be an integer at least 1"),
    (["env.kind=bus"], "env.kind = bus: must be one of sim, car_racing, "),
    (["env.car.brake=0"], "env.car.brake = 0: must be a number greater than 0"),
    (["env.train_tracks=[]"], "env.train_tracks = []: must be a list of 1 or more integers"),
    (["env.eval_tracks=[7,7]"], "env.eval_tracks = [7, 7]: must not name a value twice"),
    (["model=droq", "env=gym"], "model = droq: needs the images or the lidar of a simulated car"),
    (["model=mlp", "env=gym", "env.id=a/b"], "env.name = a/b: must be at most 100 letters, digits"),
    (["device=gpu"], "device = gpu: must be auto, cpu, cuda or cuda:N"),
    (["run_name=../x"], "run_name = ../x: must be at most 100 letters"),
    (["seed=-1"], "seed = -1: must be an integer at least 0"),
    (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
    (["seed=???"], "seed: Missing mandatory value"),
    (["~agent.gamma"], "agent.gamma: has no value. Set it to a number at least 0 and less than 1"),
    (["+agent.gama=0.9"], "agent.gama: there is no such key. Did you mean agent.gamma"),
    (["+foo=1"], "foo: there is no such key. Remove it"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_a_wrong_value_is_named_with_what_is_allowed(compose, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    assert message in str(caught.value)
    assert "\n  " + message in str(caught.value)  # each problem begins its own line


def test_all_problems_are_told_at_once(compose):
    with pytest.raises(ConfigError) as caught:
        compose("agent.gamma=2", "encoder.dropout=2", "log_std_min=x")
    assert len(caught.value.problems) == 3  # actor.log_std_min only repeats log_std_min


def test_a_config_error_survives_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(ConfigError(["one", "two"])))
    assert error.problems == ("one", "two") and "  one\n  two" in str(error)


def test_unwise_values_are_warned_of(compose):
    config = compose(
        "agent.gamma=0.95", "agent.betas_critic=[0.9,0.999]", "training.max_training_steps_per_env_step=20"
    )
    gamma, betas, updates = checks.warnings(config)
    assert "agent.gamma = 0.95 looks 20 steps ahead" in gamma
    assert "betas_critic" in betas and "max_training_steps_per_env_step = 20" in updates
    assert not checks.warnings(compose("model=mlp", "env=gym"))


def test_load_leaves_its_input_alone():
    cfg = raw()
    before = OmegaConf.to_yaml(cfg)
    load(cfg)
    assert OmegaConf.to_yaml(cfg) == before


# --- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("agent.gamma=1.2", "agent.gamma = 1.2: must be a number at least 0 and less than 1"),
        ("foo=1", "foo: there is no such key."),
        ("+foo=1", "foo: there is no such key."),
        ("log_std_mn=-2", "log_std_mn: there is no such key. Did you mean log_std_min?"),
        ("dropout=0.1", "dropout: there is no such key. Did you mean encoder.dropout or critic.dropout?"),
        ("env.id=Pendulum-v1", "env.id: there is no such key. Only another option of env has it."),
        ("norm=grup", "norm = grup: must be one of batch, group, layer, none. Did you mean norm=group?"),
        ("agent=3", "The command line was: agent=3"),
        ("seed=[1", "Error when parsing"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message_and_exit_code_1(argument, message):
    done = run_command(argument)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_a_misspelled_search_space_is_not_ignored():
    done = run_command("sweep=optuan", "--cfg", "job")
    assert done.returncode == 1
    assert "sweep = optuan: must be one of basic, core, legacy, optuna. Did you mean sweep=optuna?" in done.stderr


def test_help_lists_every_group():
    done = run_command("--help")
    assert done.returncode == 0
    assert all(f"{option.strip('+').partition('=')[0]}:" in done.stdout for option in OPTIONS)


def test_cfg_job_is_the_composed_configuration():
    done = run_command("--cfg", "job", "experiment=collapse")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout) == OmegaConf.to_container(raw("experiment=collapse"))


def test_help_and_cfg_import_nothing_heavy():
    heavy = "{'torch', 'tmrl', 'numpy', 'pydantic', 'matplotlib', 'cv2'} & set(sys.modules)"
    script = (
        f"import atexit, runpy, sys; atexit.register(lambda: print('heavy:', sorted({heavy}))); "
        f"sys.argv = ['train.py', '--cfg', 'job']; sys.path[0] = {str(ROOT / 'app')!r}; "
        f"runpy.run_path({str(ROOT / 'app' / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.rstrip().endswith("heavy: []"), done.stdout[-300:] + done.stderr
