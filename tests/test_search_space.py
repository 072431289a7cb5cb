"""Search space of a study: what is searched in the end, and refusals before a study is touched."""

import re

import optuna
import pytest
from omegaconf import DictConfig, open_dict

from app.core.errors import UserError
from app.sweep.search_space import SearchSpace, check_sampler, check_search_space, read_search_space, sampler_of_launch
from tests.helpers.make import raw

REST = {"agent.betas_actor.1", "agent.gamma", "training.max_training_steps_per_env_step"}  # of sweep=core


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return raw("hydra/sweeper=optuna", "sweep=core", "env=sim_lidar", hydra=True)


@pytest.fixture
def read(composed):
    """Read the search space of a command with these overrides, checked as a sweep does."""

    def read_space(*overrides: str) -> SearchSpace:
        cfg = composed.copy()
        cfg.hydra.overrides.task = list(overrides)
        space = read_search_space(cfg.hydra)
        check_search_space(space, cfg)
        return space

    return read_space


def test_fixed_list_replaces_the_search_of_its_items(read):
    space = read("agent.betas_critic=[0.9,0.95]")
    assert set(space.distributions) == REST
    assert [text for text in space.overrides if "betas_critic" in text] == ["agent.betas_critic=[0.9,0.95]"]
    assert set(read("agent.betas_critic.1=0.95").distributions) == REST


def test_searched_list_replaces_the_search_of_its_items(read):
    assert set(read("agent.betas_critic=[0.9,0.95],[0.8,0.9]").distributions) == REST | {"agent.betas_critic"}


@pytest.mark.parametrize(
    "overrides",
    [
        ("agent.betas_critic=[0.9,0.95]", "agent.betas_critic.1=0.9,0.99"),
        ("agent.betas_critic=[0.9,0.95],[0.8,0.9]", "agent.betas_critic[1]=0.99"),
    ],
)
def test_list_and_its_item_are_not_searched_together(read, overrides):
    with pytest.raises(UserError, match=r"is a part of agent.betas_critic=.*Name either agent.betas_critic or its"):
        read(*overrides)


def test_fixed_key_has_no_part_in_a_grid(read):
    space = read("agent.gamma=0.99")
    assert set(space.distributions) == (REST - {"agent.gamma"}) | {"agent.betas_critic.1"}
    assert [text for text in space.overrides if "gamma" in text] == ["agent.gamma=0.99"]


def test_option_of_a_group_leaves_the_search_of_its_keys(read):
    assert {"agent", "agent.gamma"} <= set(read("agent=droq,sac").distributions)


def test_key_has_one_name_in_the_study_however_it_is_written(read):
    for written in ("++agent.betas_critic.0", "agent.betas_critic[0]"):
        space = read(f"{written}=0.8,0.9")
        assert "agent.betas_critic.0" in space.distributions and "agent.betas_critic.0=0.8,0.9" in space.overrides


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("agent.gama=0.9,0.99", "agent.gama: there is no such key. Did you mean agent.gamma"),
        ("agent.betas_critic.7=0.9,0.99", "agent.betas_critic.7: there is no such key"),
        ("+env.kwargs.goal=1,2", "env.kwargs.goal: a single name of env.kwargs cannot be searched."),
        ("agent.gamma=0.9,1.5", "agent.gamma = 1.5: must be a number at least 0 and less than 1"),
        ("agent.gamma=interval(0.9,1.0)", "agent.gamma = 1.0: must be a number at least 0 and less than 1"),
        ("agent.betas_critic=[0.9,0.95],[0.8,1.9]", "agent.betas_critic = [0.8, 1.9]: must be a list of 2 numbers"),
        ("agent.lr_actor=true,0.1", "agent.lr_actor = true: must be a number greater than 0"),
        ("replay.batch_size=interval(8.0,64.0)", "must be an integer at least 1"),
        ("norm=group,lyer", "norm = lyer: must be one of batch, group, layer, none. Did you mean norm=layer?"),
        ("agent.gamma=interval(0.99,0.9)", "agent.gamma = interval(0.99,0.9): Optuna cannot search this (`low"),
        ("agent.lr_actor=tag(log,interval(0,1))", "agent.lr_actor = tag(log,interval(0,1)): Optuna cannot search"),
        ("agent.lr_actor=interval(-inf,inf)", "its bounds must be finite"),
        ("agent.gamma=glob(*)", "agent.gamma = glob(*): Optuna cannot search this"),
    ],
)
def test_key_or_value_that_no_trial_accepts_is_refused(read, override, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        read(override)


def test_every_wrong_value_is_named_at_once(read):
    with pytest.raises(UserError) as caught:
        read("agent.gamma=0.9,1.5", "agent.lr_actor=0,1", "experiment=null,colapse")
    assert all(key in str(caught.value) for key in ("agent.gamma = 1.5", "agent.lr_actor = 0", "experiment = colapse"))


def sampler(name: str, **keys: object) -> DictConfig:
    section = raw("hydra/sweeper=optuna", f"hydra/sweeper/sampler={name}", hydra=True).hydra.sweeper.sampler
    with open_dict(section):
        section.update(keys)
    return section


@pytest.mark.parametrize(
    ("name", "keys", "sentence"),
    [
        ("motpe", {}, "was removed in Optuna 4.0"),
        ("tpe", {"foo": 1}, "hydra.sweeper.sampler = TPESampler: cannot search this space"),
        ("tpe", {"seed": -5}, "Seed must be between 0"),
        ("tpe", {"_target_": "os.system"}, "hydra.sweeper.sampler = system: cannot search this space"),
    ],
)
def test_sampler_that_cannot_be_made_is_refused(read, name, keys, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        check_sampler(sampler(name, **keys), read())


def test_search_without_a_sampler_is_refused(read):
    with pytest.raises(UserError, match="hydra.sweeper.sampler = null: a search needs a sampler"):
        check_sampler(None, read())


def test_sampler_without_its_package_is_refused_with_the_command_that_installs_it(read, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    with pytest.raises(UserError, match=r"CmaEsSampler: .*python -m pip install cmaes.*sampler=tpe"):
        check_sampler(sampler("cmaes"), read())


def test_grid_needs_values_to_choose_from(read):
    check_sampler(sampler("grid"), read())
    with pytest.raises(UserError, match=r"agent.lr_actor: the grid sampler needs a list of values"):
        check_sampler(sampler("grid"), read("agent.lr_actor=interval(0.1,0.2)"))


FIXED = ("agent.betas_actor.1=0.99", "agent.betas_critic.1=0.99")  # of sweep=core
COUNTS = (*FIXED, "agent.gamma=choice(0.99,0.995)", "training.max_training_steps_per_env_step=range(2,7,2)")


def complete(gamma: float, updates: int, **fixed: str) -> optuna.trial.FrozenTrial:
    """A complete trial of a launch that searched these two keys and fixed others."""
    params = {"agent.gamma": gamma, "training.max_training_steps_per_env_step": updates}
    attributes = dict(text.split("=") for text in FIXED) | fixed
    distributions = {
        "agent.gamma": optuna.distributions.CategoricalDistribution((0.99, 0.995, 0.999)),
        "training.max_training_steps_per_env_step": optuna.distributions.IntDistribution(2, 8),
    }
    return optuna.trial.create_trial(value=1.0, params=params, distributions=distributions, user_attrs=attributes)


def test_combinations_of_values_are_counted_and_fractions_have_no_number(read):
    assert read(*COUNTS).combinations == 2 * 3
    assert read(*COUNTS, "agent.alpha=interval(0.1,0.2)").combinations is None
    assert read(*COUNTS, "replay.batch_size=range(1,1000000000001)").combinations == 6 * 10**12


def test_space_is_exhausted_when_every_combination_of_its_own_has_been_tried(read):
    space = read(*COUNTS)
    tried = [complete(gamma, updates) for gamma in (0.99, 0.995) for updates in (2, 4, 6)]
    assert space.is_exhausted(tried) and not space.is_exhausted(tried[1:])
    assert not space.is_exhausted([*tried[1:], tried[1]])  # a repeated trial
    assert not space.is_exhausted([*tried[1:], complete(0.999, 2)])  # a value that this launch does not search
    assert not space.is_exhausted([*tried[1:], complete(0.99, 3)])
    assert not space.is_exhausted([*tried[1:], complete(0.99, 2, **{"agent.betas_actor.1": "0.9"})])
    assert not read(*COUNTS, "norm=group,layer").is_exhausted(tried * 2)  # trials that did not search norm


def test_seed_of_a_launch_is_reproducible_and_never_that_of_another_one():
    seeds = [[sampler_of_launch(sampler("tpe", seed=3), number).seed for number in range(4)] for _ in range(2)]
    assert seeds[0] == seeds[1] and seeds[0][0] == 3 and len(set(seeds[0])) == 4
    assert sampler_of_launch(sampler("tpe"), 2).seed is None


def test_grid_keeps_its_seed_because_the_study_knows_how_far_it_has_come():
    assert sampler_of_launch(sampler("grid", seed=3), 2).seed == 3
