"""Arms and runs of a lab: names, order, overrides, and what is refused."""

import re
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from app.ablation.lab_plan import LabPlan, require_same_settings
from app.config.describe import allowed
from app.config.faults import FAULTS, faults_of
from app.config.load import ConfigError
from app.config.schema_lab import LabConfig
from app.core.errors import UserError
from tests.helpers.labs import lab_config, plan_of, write_run
from tests.helpers.make import CONF, compose

LABS = sorted(path.stem for path in (CONF / "lab").glob("*.yaml"))
SWITCHES = {fault.number: fault.switch for fault in FAULTS if fault.switch is not None}


def names(runs) -> list[str]:
    return [planned.run.name for planned in runs]


def broken(number: int) -> list[str]:
    return [f"{key}={SWITCHES[number].broken}" for key in SWITCHES[number].keys]


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> dict[str, LabPlan]:
    """Every lab with one seed."""
    return {lab: plan_of(tmp_path_factory.mktemp(lab), f"lab={lab}", "seeds=[0]") for lab in LABS}


@pytest.fixture(params=LABS)
def arms(request, plans):
    return plans[request.param].arms


def test_runs_are_planned_seed_by_seed(tmp_path):
    plan = plan_of(tmp_path, "lab=smoke")
    assert names(plan.chosen) == ["fixed-seed0", "collapse-seed0", "fixed-seed1", "collapse-seed1"]
    assert names(plan.runs) == ["fixed-seed0", "fixed-seed1", "collapse-seed0", "collapse-seed1"]


def test_arms_and_seeds_can_be_chosen(tmp_path):
    plan = plan_of(tmp_path, "lab=images", "arms=[fix_2_norm,collapse]", "seeds=[7,2]")
    assert names(plan.chosen) == ["collapse-seed7", "fix_2_norm-seed7", "collapse-seed2", "fix_2_norm-seed2"]
    assert len(plan.runs) == 4 * 4  # what the lab is to have stays in the evidence


def test_seeds_of_earlier_commands_stay_in_the_plan(tmp_path):
    write_run(plan_of(tmp_path, "lab=smoke", "seeds=[5]"), "fixed-seed5")
    assert "fixed-seed5" in names(plan_of(tmp_path, "lab=smoke").runs)
    assert "fixed-seed5" not in names(plan_of(tmp_path, "lab=smoke").chosen)


def test_configuration_of_a_run_is_that_of_its_overrides(tmp_path):
    for planned in plan_of(tmp_path, "lab=images", "agent.lr_actor=1e-5").chosen[-2:]:
        own = [text for text in planned.overrides if text.partition("=")[0] not in ("lab", "labs_dir")]
        config = compose(*own, "logger=quiet", "threads=1", f"runs_dir={tmp_path}/images/runs")
        assert planned.config == config
        assert config.agent.lr_actor == 1e-5 and config.env.name == planned.run.task == "sim"


def test_overrides_of_an_arm_win_over_those_of_the_command_line(tmp_path):
    plan = plan_of(tmp_path, "lab=smoke", "agent.lr_actor=3e-4", 'lab.arms.fixed.overrides=["agent.lr_actor=1e-5"]')
    assert [planned.config.agent.lr_actor for planned in plan.chosen] == [1e-5, 3e-4] * 2


def test_group_on_the_command_line_wins_over_that_of_the_lab(tmp_path):
    plan = plan_of(tmp_path, "lab=smoke", "env=sim")
    assert {planned.run.task for planned in plan.runs} == {"sim"}


def test_epochs_are_those_of_the_arm_unless_the_command_line_sets_them(tmp_path, plans):
    assert {(planned.run.epochs, planned.config.training.epochs) for planned in plans["images"].chosen} == {(25, 25)}
    plan = plan_of(tmp_path, "lab=smoke", "training.epochs=3")
    assert {(planned.run.epochs, planned.config.training.epochs) for planned in plan.chosen} == {(3, 3)}


def test_jobs_are_quiet_and_use_one_thread(plans):
    config = plans["full"].chosen[0].config
    assert (config.threads, config.logger.progress, config.logger.video) == (1, "none", False)
    assert config.health.on_collapse == "warn"


def test_every_lab_has_both_reference_arms(arms):
    assert [arm.name for arm in arms if arm.group == "reference"] == ["fixed", "collapse"]


def test_fault_arms_break_what_the_list_of_faults_says(arms):
    for arm in arms:
        if arm.group == "fault":
            shared = len(arms[0].overrides)
            assert {tuple(broken(number)) for number in arm.faults} == {arm.overrides[shared:]}
            switch = SWITCHES[arm.faults[0]]
            assert arm.faults == tuple(number for number, other in SWITCHES.items() if other == switch)


def test_fix_arms_are_the_experiments_of_their_faults(arms):
    for arm in arms:
        if arm.group == "fix":
            (experiment,) = {SWITCHES[number].experiment for number in arm.faults}
            assert arm.overrides[len(arms[0].overrides) :] == (f"experiment={experiment}",)


def test_names_of_arms_contain_the_numbers_of_their_faults(arms):
    for arm in arms:
        if arm.group in ("fault", "fix"):
            assert arm.name.startswith(f"{arm.group}_{'_'.join(map(str, arm.faults))}_")


def test_broken_arms_name_the_faults_that_occur_in_their_task(plans):
    for plan in plans.values():
        for arm, planned in zip(plan.arms, plan.chosen, strict=True):
            found = tuple(state.fault.number for state in faults_of(planned.config) if state.fixed is False)
            assert arm.group == "fix" or arm.faults == found


def test_full_lab_shows_every_fault_that_occurs_without_images(plans):
    arms = plans["full"].arms
    assert {number for arm in arms if arm.group == "fault" for number in arm.faults} == SWITCHES.keys() - {2}
    assert all(arm.epochs == (50 if arm.group == "reference" else 25) for arm in arms)


@pytest.mark.parametrize(
    "override, text",
    [
        ("arms=[fixd]", "arms = [fixd]: this lab has no arm fixd. Did you mean fixed?"),
        ("arms=[xyz]", "arms = [xyz]: this lab has no arm xyz. The arms are fixed, collapse."),
        ("arms=[fixed,fixed]", "arms = [fixed, fixed]: must not name a value twice. Remove the repeated ones."),
        ("seeds=[1,1]", "seeds = [1, 1]: must not name a value twice. Remove the repeated ones."),
    ],
)
def test_wrong_choice_is_refused_in_a_sentence(tmp_path, override, text):
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, "lab=smoke", override)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "override, text",
    [
        ("seeds=[-1]", "seeds = [-1]: must be a list of 1 or more integers at least 0"),
        ("arms=[]", "arms = []: must be a list of 1 or more"),
        ("lab.arms.fixed.epochs=0", "lab.arms.fixed.epochs = 0: must be an integer at least 1."),
        ("lab.arms.fixed.group=faults", "lab.arms.fixed.group = faults: must be one of reference, fault, fix, value."),
        ("+lab.arms.fixed.color=red", "lab.arms.fixed.color: there is no such key."),
        ("~lab.arms.fixed.label", "lab.arms.fixed.label: has no value. Set it to a string."),
        ("lab.seconds_per_update.sim=0", "lab.seconds_per_update.sim = 0: must be a number greater than 0."),
        ("+lab.foo=1", "lab.foo: there is no such key."),
    ],
)
def test_wrong_value_is_refused_with_what_is_allowed(tmp_path, override, text):
    with pytest.raises(ConfigError) as caught:
        lab_config(tmp_path, "lab=smoke", override)
    assert text in str(caught.value)


def test_arm_that_is_not_valid_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"lab\.arms\.fixed: agent\.gamma = 1\.5: must be a number"):
        plan_of(tmp_path, "lab=smoke", 'lab.arms.fixed.overrides=["agent.gamma=1.5"]')


def test_mapping_is_described_in_words():
    assert allowed(LabConfig.__annotations__["lab"].__annotations__["arms"]).startswith("a mapping of names to ")


def test_runs_made_under_other_settings_are_refused_in_a_sentence(tmp_path):
    write_run(plan_of(tmp_path, "lab=smoke"), "fixed-seed1")
    require_same_settings(plan_of(tmp_path, "lab=smoke").runs)
    with pytest.raises(UserError) as caught:
        require_same_settings(plan_of(tmp_path, "lab=smoke", "agent.lr_actor=3e-4").runs)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/smoke/runs/fixed-seed1: was made under other settings")
    assert "agent.lr_actor: 0.0001 → 0.0003" in text and "lab.name=" in text and "\n" not in text


@pytest.mark.parametrize("override", ["training.eval_episodes=3", "health.collapse.low_score=0.5"])
def test_runs_judged_in_another_way_are_refused(tmp_path, override):
    write_run(plan_of(tmp_path, "lab=smoke"), "fixed-seed1")
    with pytest.raises(UserError, match="was made under other settings"):
        require_same_settings(plan_of(tmp_path, "lab=smoke", override).runs)


@pytest.mark.parametrize("override", ["training.epochs=9", "threads=2", "logger=default", "seeds=[4]", "device=cpu"])
def test_runs_continue_with_more_epochs_and_elsewhere(tmp_path, override):
    write_run(plan_of(tmp_path, "lab=smoke"), "fixed-seed1")
    require_same_settings(plan_of(tmp_path, "lab=smoke", override).runs)


def test_configuration_of_a_run_has_no_keys_of_the_lab(tmp_path):
    config = lab_config(tmp_path, "lab=smoke").run_config()
    assert config == replace(compose(), **{key: getattr(config, key) for key in ("threads", "runs_dir", "logger")})


def test_lab_files_state_nothing_twice():
    for lab in LABS:
        content = OmegaConf.load(CONF / "lab" / f"{lab}.yaml")
        assert content.name == lab and not {"dry_run", "process", "seconds_per_update"} & content.keys()


def test_override_that_makes_two_arms_the_same_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape("arms = [fixed,collapse]: have the same settings")):
        plan_of(tmp_path, "lab=smoke", "experiment=collapse")


def test_override_that_breaks_a_fault_in_the_fixed_arm_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape("agent.gamma=0.9: breaks fault 6 in the arm fixed")):
        plan_of(tmp_path, "lab=smoke", "agent.gamma=0.9")


def test_epochs_of_the_command_line_concern_the_chosen_runs_alone(tmp_path):
    plan = plan_of(tmp_path, "lab=smoke", "arms=[fixed]", "seeds=[0]", "training.epochs=7")
    assert {planned.run.name: planned.run.epochs for planned in plan.runs} == {
        "fixed-seed0": 7, "fixed-seed1": 2, "collapse-seed0": 2, "collapse-seed1": 2
    }  # fmt: skip
