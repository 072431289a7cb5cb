"""The configuration: composition, agreement of YAML and schema, refused values, and the command line."""

import dataclasses
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from app.config import rules, schema, schema_commands, schema_env
from app.config.describe import known_keys
from app.config.load import ConfigError, load, unknown_key
from app.config.renamed_keys import RENAMED_KEYS, renaming
from app.config.run_names import name_job
from app.config.schema import Config
from app.core.tmrl_api import TorchTrainingOffline
from app.models.backbone import Backbone
from app.reporting.run_commands import next_commands
from tests.helpers.commands import answer
from tests.helpers.make import CONF, OPTIONS, OTHER_OPTIONS, raw, with_requirements

ROOT = CONF.parent


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(ROOT / "app" / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def switches(config: Config) -> tuple[str, float, bool, float]:
    """The settings of the faults 1 to 5."""
    return config.norm.kind, config.encoder.dropout, config.actor.detach, config.actor.log_std_min


# --- what composes ---------------------------------------------------------------------------------------


def together(options):
    """Return the options in as few combinations as possible, with one of every group each."""
    groups = [list(found) for _, found in itertools.groupby(options, lambda option: option.partition("=")[0])]
    most = max(map(len, groups))
    return [tuple(found[min(index, len(found) - 1)] for found in groups) for index in range(most)]


@pytest.mark.parametrize("options", together(OTHER_OPTIONS), ids=" ".join)
def test_every_option_that_no_network_depends_on_composes(compose, options):  # those of networks: test_models.py
    overrides = dict.fromkeys(text for option in options for text in with_requirements(option))
    assert isinstance(compose(*overrides), Config)


@pytest.mark.parametrize("model", ["droq_contextual", "droq", "shared_backbone", "mlp"])
@pytest.mark.parametrize("env", ["sim", "sim_lidar", "car_racing", "gym"])
def test_every_model_composes_on_every_environment_it_fits(compose, model, env):
    if env == "gym" and model != "mlp":
        with pytest.raises(ConfigError, match=f"model = {model}: .* Use model=mlp, or env=sim"):
            compose(f"model={model}", f"env={env}")
    else:
        assert compose(f"model={model}", f"env={env}").model.name == model


def test_default_is_the_repaired_agent_without_warnings(compose):
    assert switches(compose()) == ("group", 0.0, True, -20)
    assert not rules.warnings(compose())


def test_command_line_wins_over_experiment_and_model(compose):
    config = compose("experiment=collapse", "norm=layer", "log_std_min=-3", "model=droq", "critic=plain")
    assert switches(config) == ("layer", 0.1, False, -3)
    assert not config.critic.layer_norm


def test_model_chooses_its_heads_agent_and_replay(compose):
    assert compose("model=droq").critic.hidden_dim == 384
    assert compose("model=mlp", "env=gym").agent.polyak == compose("agent=sac").agent.polyak
    assert compose("model=mlp", "env=gym").replay == compose("replay=sac").replay


def test_sim_lidar_differs_from_sim_only_in_the_images(compose):
    sim, lidar = compose("env=sim").env, compose("env=sim_lidar").env
    assert dataclasses.replace(sim, name="sim_lidar", images=False) == lidar


def test_run_name_consists_of_model_environment_and_seed(compose):
    assert compose("model=mlp", "env=gym", "seed=3").run_name == "mlp-Pendulum-v1-seed3"


# --- YAML and schema agree -------------------------------------------------------------------------------


def test_schema_has_no_defaults():
    modules = (schema, schema_env, schema_commands)
    sections = {value for module in modules for value in vars(module).values() if dataclasses.is_dataclass(value)}
    assert len(sections) > 30
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


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_option_states_no_value_that_it_inherits(path):
    option = yaml.safe_load(path.read_text("utf-8")) or {}
    parents = [name for name in option.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    for name in parents:
        parent = CONF / f"{name.strip('/').removesuffix('@_here_')}.yaml" if name[0] == "/" else path.with_stem(name)
        inherited = values_of(parent)
        assert {key for key, value in option.items() if key in inherited and inherited[key] == value} == set()


def values_of(path):
    """The values of an option, inherited ones included."""
    option = yaml.safe_load(path.read_text("utf-8"))
    parents = [name for name in option.pop("defaults", []) if isinstance(name, str) and name[0] not in "_/"]
    return {key: value for name in parents for key, value in values_of(path.with_stem(name)).items()} | option


@pytest.mark.parametrize(
    "name", ["config", "doctor", "evaluate", "export", "make_keys", "postmortem", "sweep_report", "validate"]
)
def test_commands_write_no_folder_of_hydras(name):
    with initialize_config_dir(str(CONF)):
        hydra = hydra_compose(name, return_hydra_config=True).hydra
    assert (hydra.output_subdir, hydra.run.dir, hydra.job.chdir) == (None, ".", False)
    assert not hydra.job_logging.root and not hydra.hydra_logging.root


def test_every_option_of_a_group_has_the_same_keys():
    for group in sorted({option.partition("=")[0] for option in OPTIONS} - {"env", "experiment", "sweep"}):
        paths = (CONF / group.strip("+")).glob("*.yaml")
        assert len({frozenset(values_of(path)) for path in paths}) == 1, group


def test_schedule_uses_the_terms_of_tmrl():
    fields = {"epochs", "max_training_steps_per_env_step", "start_training", "update_model_interval"}
    assert fields <= {field.name for field in dataclasses.fields(TorchTrainingOffline)}


def test_configuration_is_frozen(compose):
    with pytest.raises(dataclasses.FrozenInstanceError):
        compose().agent.gamma = 0.5


# --- wrong values ----------------------------------------------------------------------------------------

GYM = ("model=mlp", "env=gym")
WRONG = [
    (["agent.gamma=1.2"], "agent.gamma = 1.2: must be a number at least 0 and less than 1"),
    (["agent.gamma=null"], "agent.gamma = null: must be a number at least 0 and less than 1"),
    (["agent.lr_actor=0"], "agent.lr_actor = 0: must be a number greater than 0"),
    (["agent.lr_actor=inf"], "agent.lr_actor = inf: must be a number greater than 0"),
    (["agent.grad_clip=-1"], "agent.grad_clip = -1: must be a number greater than 0 or null"),
    (["agent.betas_critic=[0.9,1]"], "agent.betas_critic = [0.9, 1]: must be a list of 2 numbers at least 0"),
    (["agent.auto_alpha=maybe"], "agent.auto_alpha = maybe: must be true or false"),
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
    (["model=mlp", "env=gym", "env.name=a/b"], "env.name = a/b: must be at most 100 letters, digits"),
    ([*GYM, "env.kwargs={1:2}"], "env.kwargs = {1: 2}: must be a mapping of names to finite numbers, texts, true"),
    (["norm=batch", "replay.batch_size=1"], "norm = batch: has nothing to average over with replay.batch_size = 1"),
    (["device=gpu"], "device = gpu: must be auto, cpu, cuda or cuda:N"),
    (["run_name=../x"], "run_name = ../x: must be at most 100 letters"),
    (["seed=-1"], "seed = -1: must be an integer at least 0"),
    (["seed=${nope}"], "seed: Interpolation key 'nope' not found"),
    (["seed=???"], "seed: is missing. Write seed=..."),
    (["~agent.gamma"], "agent.gamma: has no value. Set it to a number at least 0 and less than 1"),
    (["+agent.gama=0.9"], "agent.gama: there is no such key. Did you mean agent.gamma"),
    (["+foo=1"], "foo: there is no such key. Remove it"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_value_is_reported_with_the_allowed_values(compose, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    assert message in str(caught.value)
    assert "\n  " + message in str(caught.value)  # each problem begins its own line


def test_all_problems_are_reported_together(compose):
    with pytest.raises(ConfigError) as caught:
        compose("agent.gamma=2", "encoder.dropout=2", "log_std_min=x")
    assert len(caught.value.problems) == 3  # actor.log_std_min only repeats log_std_min


def test_truth_values_are_no_numbers(compose):
    wrong = {
        "agent.lr_actor": "true", "agent.n_step": "true", "agent.betas_critic": "[false, 0.9]", "log_std_min": "true",
        "env.top_speed": "false", "env.return_range": "[false, 500]", "backbone.stages.0.stride": "true",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        compose("env=car_racing", *(f"{key}={value}" for key, value in wrong.items()))
    found = [problem.partition(": must be ")[0] for problem in caught.value.problems]
    assert sorted(found) == sorted(f"{key} = {value}" for key, value in wrong.items())


def test_config_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(ConfigError(["one", "two"])))
    assert error.problems == ("one", "two") and "  one\n  two" in str(error)


def test_batch_norm_takes_whatever_has_more_than_one_value(compose):
    config = compose("norm=batch")
    one = dataclasses.replace(config, replay=dataclasses.replace(config.replay, batch_size=1))
    large = dataclasses.replace(one, env=dataclasses.replace(one.env, image_size=17))
    blind = dataclasses.replace(one, env=dataclasses.replace(one.env, images=False))
    group = dataclasses.replace(one, norm=dataclasses.replace(one.norm, kind="group"))
    assert [len(rules.problems(each)) for each in (config, one, large, blind, group)] == [0, 1, 0, 0, 0]
    backbone = Backbone(one.backbone, one.norm, 4, 8)
    backbone(torch.zeros(1, 4, 17, 17))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        backbone(torch.zeros(1, 4, 16, 16))


def test_arguments_of_a_task_are_plain_data_of_any_depth(compose):
    config = compose(*GYM, "env.kwargs={goal:[1,{x:true}],name:a}", "+env.kwargs.more=null")
    assert config.env.kwargs == {"goal": [1, {"x": True}], "name": "a", "more": None}
    assert isinstance(hash(config), int)  # validation keeps runs in a dict
    assert unknown_key("env.kwargs.g", Config).endswith("A new name in env.kwargs takes a plus: +env.kwargs.g=...")


def test_task_of_a_module_has_a_run_name(compose):
    config = compose(*GYM, "env.id=my_tasks:Reach-v0")
    for spelling in ("env.id=my_tasks:Reach-v0", r"env.id=my_tasks\:Reach-v0"):  # the second in a multirun
        assert name_job(config, raw(*GYM), [*GYM, spelling]) == config.run_name
    assert config.run_name == "mlp-my_tasks-Reach-v0-seed0"
    commands = [command.line for command in next_commands(Path("runs/mine"), config, has_policy=True)]
    assert commands[0] == "python app/evaluate.py run=runs/mine env_module=my_tasks"
    assert "'env.id=\"my_tasks:Reach-v0\"'" in commands[-1]


def test_unwise_values_are_warned_about(compose):
    config = compose(
        "agent.gamma=0.95", "agent.betas_critic=[0.9,0.999]", "training.max_training_steps_per_env_step=20"
    )
    gamma, betas, updates = rules.warnings(config)
    assert "agent.gamma = 0.95: " in gamma and "20 steps at 0.95" in gamma and "Use 0.99 to 0.999." in gamma
    assert "betas_critic" in betas and "max_training_steps_per_env_step = 20" in updates
    assert not rules.warnings(compose("model=mlp", "env=gym"))


def test_load_does_not_change_its_input():
    cfg = raw()
    before = OmegaConf.to_yaml(cfg)
    load(cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_renamed_keys_are_refused_with_their_new_names(compose):
    with pytest.raises(ConfigError) as caught:
        compose(*(f"+{old}=1" for old in RENAMED_KEYS))
    keys = set(known_keys(Config))
    for old, new in RENAMED_KEYS.items():
        assert any(problem.startswith(f"{old} was renamed: use {new}") for problem in caught.value.problems)
        assert old not in keys and new in keys


def test_factors_of_a_renamed_key_are_named():
    assert renaming("training.rounds") == (
        "training.rounds was renamed: use training.updates_per_epoch = rounds × steps."
    )
    assert renaming("agent.gamma") is None


# --- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("agent.gamma=1.2", "agent.gamma = 1.2: must be a number at least 0 and less than 1"),
        ("foo=1", "foo: there is no such key."),
        ("+foo=1", "foo: there is no such key."),
        ("log_std_mn=-2", "log_std_mn: there is no such key. Did you mean log_std_min?"),
        ("agent.alpha_floor=0.1", "agent.alpha_floor was renamed: use agent.alpha_min."),
        ("dropout=0.1", "dropout: there is no such key. Did you mean encoder.dropout or critic.dropout?"),
        ("env.id=Pendulum-v1", "env.id: there is no such key. It exists only in another option of env."),
        ("norm=grup", "norm = grup: must be one of batch, group, layer, none. Did you mean norm=group?"),
        ("agent=3", "agent = 3: must be one of droq, sac."),
        ("seed=[1", "seed=[1: cannot be read. Quotes and brackets come in pairs"),
        ("run_name=a=b", "takes quotes within quotes: 'run_name=\"a=b\"'"),
    ],
)
def test_mistake_on_the_command_line_is_named_with_what_is_allowed(argument, message, monkeypatch, capsys):
    assert message in answer("train", [argument], monkeypatch)
    assert capsys.readouterr() == ("", "")  # the message is all


def test_mistake_on_the_command_line_is_one_message_and_exit_code_1():
    done = run_command("agent.gamma=1.2")
    assert done.returncode == 1 and not done.stdout
    assert "agent.gamma = 1.2: must be a number at least 0" in done.stderr and "Traceback" not in done.stderr


def test_misspelt_search_space_is_refused(monkeypatch):
    message = "sweep = optuan: must be one of basic, core, legacy, optuna. Did you mean sweep=optuna?"
    assert message in answer("train", ["sweep=optuan", "--cfg", "job"], monkeypatch)


def test_help_lists_every_group():
    done = run_command("--help")
    assert done.returncode == 0
    assert all(f"{option.strip('+').partition('=')[0]}:" in done.stdout for option in OPTIONS)


@pytest.fixture(scope="module")
def shown() -> tuple[str, str]:
    """What ``--cfg job`` prints, and the large packages that its process has imported."""
    heavy = "{'torch', 'tmrl', 'numpy', 'pydantic', 'matplotlib', 'cv2'} & set(sys.modules)"
    script = (
        f"import atexit, runpy, sys; atexit.register(lambda: print('heavy:', sorted({heavy}))); "
        f"sys.argv = ['train.py', '--cfg', 'job', 'experiment=collapse']; sys.path[0] = {str(ROOT / 'app')!r}; "
        f"runpy.run_path({str(ROOT / 'app' / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    printed, _, imported = done.stdout.rpartition("heavy:")
    return printed, imported.strip()


def test_cfg_job_is_the_composed_configuration(shown):
    assert yaml.safe_load(shown[0]) == OmegaConf.to_container(raw("experiment=collapse"))


def test_cfg_imports_nothing_heavy(shown):
    assert shown[1] == "[]"
