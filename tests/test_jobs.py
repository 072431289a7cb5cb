"""Jobs of -m: each has a run folder and a share of the cores of its own."""

import re
from itertools import combinations

from omegaconf import OmegaConf

from app.config import multirun
from app.config.load import load
from app.config.multirun import Job, TrialJob, config_of_job, count_parallel_jobs
from app.config.run_names import name_run, unique_run_name
from app.config.schema import Config
from app.config.types import LONGEST_NAME
from tests.helpers.make import raw


def job(*overrides: str, parallel_jobs: int = 1, trial: TrialJob | None = None, swept: tuple[str, ...] = ()) -> Config:
    cfg = raw(*overrides)
    return config_of_job(load(cfg), cfg, Job(overrides, parallel_jobs, trial, swept=swept))


def job_folder(*overrides: str) -> str:
    return job(*overrides).run_name


def test_default_run_name_shows_model_env_and_seed_once():
    assert job_folder("seed=1") == "droq_contextual-sim-seed1"
    assert job_folder("model=droq", "env=sim_lidar", "seed=3") == "droq-sim_lidar-seed3"
    assert job_folder("seed=1", "agent.gamma=0.999") == "droq_contextual-sim-seed1__agent.gamma-0.999"


def test_given_run_name_is_extended_by_the_overrides_that_it_does_not_show():
    assert job_folder("run_name=mine", "seed=1", "env=sim_lidar") == "mine__env-sim_lidar__seed-1"
    assert job_folder("run_name='mine-${seed}'", "seed=1", "env=sim_lidar") == "mine-1__env-sim_lidar"
    # Under a common env.name, the option of env must be in the run name.
    assert job_folder("env=sim_lidar", "env.name=car") != job_folder("env=sim", "env.name=car")


def single_run(*overrides: str) -> str:
    cfg = raw(*overrides)
    return name_run(load(cfg), cfg, overrides)


def test_default_name_of_a_single_run_shows_what_it_is_made_under():
    assert single_run() == single_run("training.epochs=3", "threads=1") == "droq_contextual-sim-seed0"
    assert single_run("model=droq", "env=sim_lidar", "seed=3") == "droq-sim_lidar-seed3"
    assert single_run("model=mlp", "env=gym", "env.id=Pendulum-v1") == "mlp-Pendulum-v1-seed0"
    assert single_run("norm=batch", "agent.gamma=0.95") == "droq_contextual-sim-seed0__agent.gamma-0.95__norm-batch"
    assert single_run("experiment=collapse", "+restart=clean") == "droq_contextual-sim-seed0__experiment-collapse"


def test_given_name_of_a_single_run_is_kept():
    assert single_run("run_name=mine", "agent.gamma=0.95") == "mine"
    assert single_run("run_name='mine-${seed}'", "seed=2") == "mine-2"


def test_best_settings_of_a_study_name_their_run_once():
    cfg = raw("run_name='car-best-seed${seed}'")
    for group in ("+car", "+car@_global_"):
        name = name_run(load(cfg), cfg, [f"{group}=best", "seed=0", "training=full"])
        assert name == "car-best-seed0__training-full"


def test_overrides_that_may_change_while_a_run_continues_are_not_in_the_name():
    ignored = (
        "runs_dir=/a b", "sweeps_dir=c", "device=cpu", "threads=2", "logger=quiet", "logger.video=false",
        "hydra.job.chdir=false", "+restart=clean", "restart.dry_run=False", "role=all", "workers=3", "network.port=1",
        "training.epochs=20", "training.eval_episodes=2", "health.on_collapse=stop", "health=default",
        "objective=stability",
    )  # fmt: skip
    assert unique_run_name("mine", ignored) == "mine"


def test_what_differs_between_jobs_is_in_their_names():
    epochs = job("seed=1", "training.epochs=2", "threads=1", swept=("seed", "training.epochs"))
    assert epochs.run_name == "droq_contextual-sim-seed1__training.epochs-2"
    assert job("++threads=2", swept=("++threads",)).run_name == "droq_contextual-sim-seed0__threads-2"
    assert job("run_name=mine", "runs_dir=a", swept=("run_name", "runs_dir")).run_name == "mine"


def test_run_that_begins_with_the_weights_of_another_one_has_a_name_of_its_own():
    assert single_run("training.init_from=mine") == "droq_contextual-sim-seed0__training.init_from-mine"


def test_same_overrides_give_the_same_folder_in_any_order():
    overrides = ["agent.gamma=0.99", "training=smoke", "agent.betas_actor=[0.9,0.99]", "+training.init_from='a b'"]
    assert unique_run_name("mine", overrides) == unique_run_name("mine", reversed(overrides))


def test_different_overrides_give_different_folders():
    long = [f"encoder.prediction_weight={number}" for number in (1, 2)]
    sets = [
        [], ["a=1"], ["a=-1"], ["a=1", "b=2"], ["a=1-b-2"], ["a=1__b-2"], ["a=1_"], ["a=[1,2]"], ["a=[[1],2]"],
        ["a=[1,[2]]"], ["a=x/y"], ["a=x_y"], ["a=x y"], ["a=x\\ y"], ["a='x y'"], ["a=ü"], ["a=ö"], ["a="], ["a=''"],
        ["~a"], ["a/b=1"], ["a.b=1"], ["a=" + 90 * "x"], ["a=" + 91 * "x"],
        *([*(f"section.key{n}=0.123456" for n in range(9)), weight] for weight in long),
    ]  # fmt: skip
    names = [unique_run_name(base, overrides) for base in ("mine", "mine2", LONGEST_NAME * "m") for overrides in sets]
    for one, other in combinations(names, 2):
        assert one != other
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and len(name) <= LONGEST_NAME for name in names)


KEYS = ("agent.gamma", "agent.betas_critic.1", "agent.betas_actor.1", "training.max_training_steps_per_env_step")


def test_long_name_is_cut_between_overrides_and_ends_in_a_hash():
    name = unique_run_name("droq-sim-seed0", [f"{key}=0.995" for key in KEYS])
    start = "droq-sim-seed0__betas_actor.1-0.995__betas_critic.1-0.995__gamma-0.995__"
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{10}", name)


def test_run_name_of_a_trial_is_unchanged(tmp_path):
    trial = TrialJob(tmp_path, "sqlite://", "host-1-now", 0)
    assert job("agent.gamma=0.99", "seed=1", trial=trial).run_name == "droq_contextual-sim-seed1"


def test_title_of_a_job_has_its_position_and_what_differs():
    title = Job(("seed=1", "model=droq"), 1, number=1, jobs=3, swept=("seed",)).title
    assert title == "job 2 of 3 · seed=1"
    assert Job((), 1).title == "job 1"


def test_lines_of_parallel_jobs_begin_with_what_differs():
    assert Job(("seed=1", "model=droq"), 2, number=1, jobs=3, swept=("seed",)).line_prefix == "[seed=1] "
    assert Job((), 2, number=1).line_prefix == "[job 2] " and Job(("seed=1",), 1, swept=("seed",)).line_prefix == ""


def test_parallel_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(multirun, "usable_cores", lambda: 8)
    assert [job(parallel_jobs=n).threads for n in (1, 2, 3, 20)] == [0, 4, 2, 1]  # 0: every core
    assert job("threads=3", parallel_jobs=2).threads == 3
    launchers = ({}, {"n_jobs": -1}, {"n_jobs": 2})
    assert [count_parallel_jobs(OmegaConf.create(launcher)) for launcher in launchers] == [1, 8, 2]
