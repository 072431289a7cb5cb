"""Command lines that Hydra or the schema refuses: the message names the setting and what is allowed, and no secret."""

import pytest

from app.config.command_line import hide_secrets
from app.config.load import ConfigError, load
from tests.helpers.commands import answer
from tests.helpers.make import raw

SECRET = "network.password=hunter-22"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("=", "=: is no setting. Settings are written as key=value, such as seed=1."),
        ("", "'': is no setting. Settings are written as key=value, such as seed=1."),
        ("~", "~: is no setting. Settings are written as key=value, such as seed=1."),
        ("/=1", "/=1: is no setting. Settings are written as key=value, such as seed=1."),
        (
            "run_name=é",
            "run_name=é: cannot be read. A value with special characters or letters beyond ASCII takes quotes",
        ),
        ("seed=[1", "seed=[1: cannot be read. Quotes and brackets come in pairs"),
        ("run_name=a=b", "A value with an equals sign takes quotes within quotes: 'run_name=\"a=b\"'"),
        ("seed=" + "9" * 5000, f"seed={'9' * 200}... (5,000 characters): cannot be read."),
        ("run_name=\udcff\x1b[31m", "run_name=\\udcff\\x1b[31m: cannot be read."),
        ("a\x1c", "a\\x1c: is no setting."),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_word_that_cannot_be_read_is_named_with_what_is_allowed(word, sentence, monkeypatch):
    assert sentence in answer("train", [SECRET, word], monkeypatch)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("env=[1,2]", "env = [1,2]: must be one of car_racing, gym, sim, sim_lidar, trackmania."),
        ("env=../../x", "env = ../../x: must be one of car_racing, gym, sim, sim_lidar, trackmania."),
        ("env='a\\b'", "env = 'a\\b': must be one of car_racing, gym, sim, sim_lidar, trackmania."),
        ("agent=null", "agent = null: must be one of droq, sac."),
        ("agent.betas_actor={a:1}", "agent.betas_actor = {a:1}: must be a list of 2 numbers at least 0"),
        ("env@x=sim", "env@...: a setting of this program has no package."),
        ("seed@x=1", "seed@...: a setting of this program has no package."),
        ("~agent.gama", "agent.gama: there is no such key. Did you mean agent.gamma"),
        ("~critic.hidden_dim=x", "~critic.hidden_dim: there is no such setting or option to remove now."),
        ("~restart", "~restart: there is no such setting or option to remove now."),
        ("backbone.stages.x=1", "backbone.stages.x=1: cannot be read (ValueError"),
    ],
)  # fmt: skip
def test_word_that_does_not_fit_is_named_with_what_is_allowed(word, sentence, monkeypatch):
    text = answer("train", [word], monkeypatch)
    assert sentence in text and "hydra.cc" not in text


@pytest.mark.parametrize(
    "words",
    [
        ["network.password=[hunter-22]"],
        ["network.password={hunter-22:1}"],
        ["network.password=[hunter-22", "seed=[1"],
        ["seed=[1", "+network.password='hunter-22'"],
        ["role=server network.password=hunter-22"],
        ["--network.password", "hunter-22"],
        ["--network-password=hunter-22"],
        ["network.password", "=", "hunter-22"],
        ["network.password =hunter-22"],
        ["network.password=[a hunter-22 b"],
        ["seed=[1", "network.password='a hunter-22 b'"],
        ["network={password:hunter-[22}"],
        ["network={port: 1, password: 'hunter-22'", "seed=1"],
        ["logger.name=postgresql://me:hunter-22@host/a("],
        ["logger.name=postgresql://me:a@hunter-22@host/a("],
        ["logger.name=postgresql://host/a?user=me&password=hunter-22("],
        ["network={password=hunter-22}"],
        ["network={'password':hunter-22}"],
        ['network={password:"it\'s hunter-22"'],
    ],
    ids=" ".join,
)
def test_secret_is_never_shown(words, monkeypatch):
    text = answer("train", words, monkeypatch)
    assert text and "hunter" not in text


def test_folder_of_an_option_is_not_taken_for_a_setting(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "best.yaml").write_text(
        "# @package _global_\nhydra: {callbacks: {y: {_target_: os.getcwd}}}\n"
    )
    text = answer("train", ["--config-dir", str(tmp_path), "+mine=best"], monkeypatch)
    assert text.startswith("+mine=best: cannot be read (InstantiationException: ")


def test_unknown_key_of_a_whole_section_is_named(monkeypatch):
    text = answer("train", ["network={ports:3}"], monkeypatch)
    assert "network.ports: there is no such key. Did you mean network.port or network.tls?" in text
    text = answer("train", ["+restart=clean", "restart={dry_rn:true}"], monkeypatch)
    assert "restart.dry_rn: there is no such key. Did you mean restart.dry_run or restart.tmrl_run?" in text


def test_short_word_is_no_secret():
    assert hide_secrets("a cat", ["network.password=a"]) == "a cat"


def test_long_value_is_shortened():
    with pytest.raises(ConfigError, match=r"run_name = x{200}\.\.\. \(5,000 characters\): must be at most 100 letters"):
        load(raw(f"run_name={'x' * 5000}"))


def test_field_that_has_the_name_of_a_kind_is_named():
    with pytest.raises(ConfigError, match="pruner.percentile = much: must be a number greater than 0 and at most 100"):
        load(raw("pruner.percentile=much"))


@pytest.mark.parametrize("name", ["train", "list_runs", "play"])
def test_command_line_without_mistakes_begins_the_work(name, monkeypatch):
    assert answer(name, [], monkeypatch) is None
