"""Helpers of the tests that stand in for something real do the same as it."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from tests.helpers.make import CONF, raw


@pytest.mark.parametrize(
    "overrides",
    [
        ("seed=3", "env=sim_lidar", "agent.lr_actor=1e-5", "agent.betas_critic=[0.8,0.9]", "run_name=a"),
        ("agent.gamma=0.9", "experiment=collapse", "env.track.length=300", "+restart=clean"),
        ("experiment=collapse", "log_std_min=-20", "training=smoke", "training.epochs=7"),
        ("env=gym", "model=mlp", "env.id='Pendulum-v1'", "runs_dir=/tmp/x", "replay.capacity=60"),
    ],
)
def test_quick_composition_equals_hydras(overrides):
    with initialize_config_dir(str(CONF)):
        expected = hydra_compose("config", list(overrides))
    assert OmegaConf.to_yaml(raw(*overrides)) == OmegaConf.to_yaml(expected)


def test_quick_composition_of_a_sweep_equals_hydras():
    overrides = ["hydra/sweeper=optuna", "env=sim_lidar", "seed=3", "hydra.sweeper.n_jobs=2", "hydra.sweep.dir=x"]
    with initialize_config_dir(str(CONF)):
        expected = hydra_compose("config", overrides, return_hydra_config=True)
    assert OmegaConf.to_yaml(raw(*overrides, hydra=True)) == OmegaConf.to_yaml(expected)


def test_quick_composition_refuses_an_unknown_key_as_hydra_does():
    with pytest.raises(ConfigCompositionException, match="Could not override 'agent.gama'"):
        raw("agent.gama=0.9", "seed=1")
