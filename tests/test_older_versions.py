"""Run folders of older versions: what is harmless gets today's defaults, and what could matter is refused by name."""

import functools
import json
from dataclasses import asdict

import pytest
import yaml

from app.config import key_effects
from app.config.key_effects import can_change_learning
from app.config.renamed_keys import RENAMED_KEYS, current_name
from app.config.schema import Config
from app.core.errors import UserError
from app.runs.config_file import read_config, write_config
from app.runs.fingerprint import (
    changed_settings,
    fingerprint,
    flatten,
    read_fingerprint,
    recorded_fingerprint,
    require_same_fingerprint,
    require_same_keys,
    unflatten,
    with_current_names,
)
from app.runs.run_overrides import run_overrides, spell
from tests.helpers.make import CONF, compose

OVERRIDES = {
    "sim": (),
    "lidar": ("env=sim_lidar", "model=droq"),
    "gym": ("model=mlp", "env=gym"),
    "trackmania": ("env=trackmania", "role=all", "workers=1"),
    "car_racing": ("env=car_racing",),
}


@functools.cache
def config_of(name: str = "sim") -> Config:
    """A valid configuration, composed once."""
    return compose(*OVERRIDES[name])


@pytest.fixture
def path(tmp_path):
    """The configuration file of a run with the defaults."""
    write_config(tmp_path / "config.yaml", config_of())
    return tmp_path / "config.yaml"


def edit(path, *removed: str, **added) -> None:
    """Remove keys and sections from a configuration file, or add keys; their dots are spelt as "__"."""
    flat = flatten(yaml.safe_load(path.read_text()))
    kept = {key: flat[key] for key in flat if not any(f"{key}.".startswith(f"{part}.") for part in removed)}
    path.write_text(yaml.safe_dump(unflatten(kept | {key.replace("__", "."): added[key] for key in added})))


HARMLESS = [
    "logger.video_size", "network.port", "pruner", "health.clipped_targets", "health.weights.performance", "threads",
    "training.checkpoint_interval_s", "training.eval_episodes_other", "env.eval_tracks", "objective",
    "health.measure_states",
]  # fmt: skip
IMPORTANT = {
    "agent.n_step": 8, "agent.policy_ema": 0.998, "critic.num_heads": 2, "env.step_s": 0.05, "replay.recent_share": 0.0,
    "training.start_training": 1000, "seed": 0, "log_std_min": -20,
}  # fmt: skip


@pytest.mark.parametrize("key", HARMLESS)
def test_missing_key_that_cannot_change_learning_gets_the_default(path, key):
    edit(path, key)
    assert read_config(path) == config_of()


@pytest.mark.parametrize("key", IMPORTANT)
def test_missing_key_that_can_change_learning_is_refused_with_its_default(path, key):
    edit(path, key, "logger.video_size")
    with pytest.raises(UserError) as refusal:
        read_config(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ") and f"\n  {key}: is missing; the default is {IMPORTANT[key]}" in text
    assert "write the missing keys" in text and "Use the version that made the run" in text
    assert "logger.video_size" not in text


def test_every_missing_key_is_named_at_once(path):
    edit(path, "agent.n_step", "value")
    with pytest.raises(UserError, match=r"agent\.n_step: is missing(.|\n)*value\.kind: is missing"):
        read_config(path)


def test_missing_key_can_be_written_into_the_file_by_hand(path):
    edit(path, "agent.n_step", agent__n_step=1)
    assert read_config(path).agent.n_step == 1


@pytest.mark.parametrize("name", OVERRIDES)
def test_every_kind_of_run_is_completed(tmp_path, name):
    config = config_of(name)
    write_config(tmp_path / "config.yaml", config)
    edit(tmp_path / "config.yaml", "logger.video_size", "training.eval_episodes")
    assert read_config(tmp_path / "config.yaml") == config.to_record()


def test_removed_key_that_cannot_change_learning_is_ignored(path):
    edit(path, logger__sound=True, network__colour="blue")
    assert read_config(path) == config_of()


def test_removed_key_that_can_change_learning_is_refused(path):
    edit(path, agent__magic=3)
    with pytest.raises(UserError, match=r"\n  agent\.magic = 3: no longer exists"):
        read_config(path)


def test_renamed_keys_are_read_under_their_new_names(path):
    content, flat = yaml.safe_load(path.read_text()), flatten(yaml.safe_load(path.read_text()))
    for old, new in RENAMED_KEYS.items():
        if new != "training.updates_per_epoch":
            edit(path, new, **{old.replace(".", "__"): flat[new]})
    edit(path, "training.updates_per_epoch", training__rounds=4, training__steps=25)
    config = read_config(path)
    assert config.training.updates_per_epoch == 100
    content["training"]["updates_per_epoch"] = 100
    assert flatten(asdict(config)) == flatten(content)


def test_product_of_a_missing_factor_is_refused(path):
    edit(path, "training.updates_per_epoch", training__rounds=4)
    with pytest.raises(
        UserError, match=r"training\.updates_per_epoch: is missing(.|\n)*training\.rounds = 4: no longer"
    ):
        read_config(path)


@pytest.mark.parametrize("key, value", [("model.name", "old_model"), ("env.kind", "boat"), ("agent.gamma", 2)])
def test_wrong_value_is_still_refused_with_what_is_allowed(path, key, value):
    edit(path, "logger.video_size", **{key.replace(".", "__"): value})
    with pytest.raises(UserError, match=rf"is not valid, or another version wrote it(.|\n)*{key}"):
        read_config(path)


def test_every_kind_of_environment_is_an_option():
    for name in ("sim", "car_racing", "gym", "trackmania"):
        assert (CONF / "env" / f"{name}.yaml").is_file()
        assert config_of(name).env.kind == name


def test_every_beginning_in_the_list_of_harmless_keys_is_that_of_a_key():
    known = {key for name in OVERRIDES for key in flatten(asdict(config_of(name)))}
    for beginning in key_effects._NOT_LEARNED:
        assert any(key.startswith(beginning) for key in known), beginning


def test_keys_of_networks_and_data_can_change_learning():
    assert all(map(can_change_learning, fingerprint(config_of())))
    assert can_change_learning("agent.unheard_of") and not can_change_learning("logger.unheard_of")


# --------------------------------------------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", None], ids=["cut off", "no text", "no mapping", "missing"])
def test_damaged_fingerprint_is_refused_with_the_hint(tmp_path, content):
    path = tmp_path / "fingerprint.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"fingerprint\.json: is damaged: .*\. Do this\.$"):
        read_fingerprint(path, "Do this.")


def test_recorded_fingerprint_of_this_version_is_unchanged(tmp_path):
    for name in OVERRIDES:
        current = fingerprint(config_of(name))
        assert recorded_fingerprint(current) == current
        (tmp_path / "fingerprint.json").write_text(json.dumps(current))
        assert read_fingerprint(tmp_path / "fingerprint.json", "") == current


def test_recorded_key_that_networks_do_not_depend_on_is_ignored():
    current = fingerprint(config_of())
    recorded = current | {"critic.initial_q": 30.0, "env.eval_tracks": [7]}
    require_same_fingerprint("it", recorded_fingerprint(recorded), current, "Do this.")


@pytest.mark.parametrize("side", ["recorded", "current"])
def test_key_that_one_fingerprint_lacks_is_refused_by_name(side):
    fingerprints = {name: fingerprint(config_of()) for name in ("recorded", "current")}
    del fingerprints[side]["critic.num_heads"]
    line = {"recorded": "critic.num_heads: (absent) → 2", "current": "critic.num_heads: 2 → (absent)"}[side]
    with pytest.raises(UserError) as refusal:
        require_same_fingerprint("it", fingerprints["recorded"], fingerprints["current"], "Do this.")
    assert line in str(refusal.value) and "another version" in str(refusal.value)
    assert str(refusal.value).endswith("Do this.")


def test_configurations_must_know_the_same_keys_that_can_change_learning():
    current = flatten(asdict(config_of()))
    recorded = {key: value for key, value in current.items() if key not in ("logger.video", "network.port")}
    require_same_keys("it", recorded | {"pruner.gone": 1, "agent.gamma": 0.5}, current, "Do this.")
    assert changed_settings(recorded | {"pruner.gone": 1}, current) == []
    assert changed_settings(recorded | {"agent.gamma": 0.5}, current) == ["agent.gamma: 0.5 → 0.99"]
    for other in (recorded | {"agent.gone": 1}, {key: current[key] for key in current if key != "agent.n_step"}):
        with pytest.raises(UserError, match=r"agent\.(gone: 1 → \(absent\)|n_step: \(absent\) → 8)"):
            require_same_keys("it", other, current, "Do this.")


def test_run_of_a_task_without_arguments_is_read_as_before(tmp_path):
    """Versions before ``env.kwargs`` had no such key, and other environments have none now."""
    config = config_of("gym")
    write_config(tmp_path / "config.yaml", config)
    edit(tmp_path / "config.yaml", "env.kwargs")
    assert read_config(tmp_path / "config.yaml") == config.to_record()
    for name in OVERRIDES:
        old = {key: value for key, value in fingerprint(config_of(name)).items() if key != "env.kwargs"}
        assert recorded_fingerprint(old) == fingerprint(config_of(name))


def test_arguments_of_a_task_are_one_setting(tmp_path):
    config = compose(*OVERRIDES["gym"], "env.kwargs={g:{a.b:1},c:[2]}")
    write_config(tmp_path / "config.yaml", config)
    edit(tmp_path / "config.yaml", "logger.video_size")
    assert read_config(tmp_path / "config.yaml") == config.to_record()
    plain = fingerprint(config_of("gym"))
    with pytest.raises(UserError, match=r"env.kwargs: null → {.*}"):
        require_same_fingerprint("it", plain, fingerprint(config), "")
    assert spell(config.env.kwargs) == "{g:{a.b:1},c:[2]}" and run_overrides(config).changed.keys() == {"env.kwargs"}


def test_unflatten_is_the_inverse_of_flatten():
    content = asdict(config_of())
    assert flatten(unflatten(flatten(content))) == flatten(content)
    assert unflatten({"a.b.c": 1, "a.d": [2], "e": None}) == {"a": {"b": {"c": 1}, "d": [2]}, "e": None}


def test_added_keys_have_the_value_that_changes_nothing():
    assert with_current_names({"agent.alpha_floor": 0.1}) == {"agent.alpha_min": 0.1, "agent.deterministic_share": 0.0}
    assert with_current_names({"agent.deterministic_share": 0.5}) == {"agent.deterministic_share": 0.5}
    assert with_current_names({"env.step_s": 0.05}) == {"env.step_s": 0.05}


def test_current_names_win_over_old_ones():
    flat = {"health.last": 3, "health.objective_window": 4}
    assert with_current_names(flat) == flat
    assert with_current_names({"health.last": 3}) == {"health.objective_window": 3}
    assert with_current_names({"training.rounds": "4", "training.steps": 5}) == {
        "training.rounds": "4",
        "training.steps": 5,
        "training.demonstrations": None,  # an added key
    }


def test_factor_of_a_newer_key_keeps_its_name():
    assert current_name("agent.alpha_floor") == "agent.alpha_min" and current_name("agent.gamma") == "agent.gamma"
    assert current_name("training.steps") == "training.steps"  # one factor is not the product
