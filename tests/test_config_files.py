"""Files of the configuration that cannot be read, and ids of tasks: one sentence each."""

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from app.config.cli import run
from app.config.load import CONF
from app.config.task_id import require_typed_id, split_task_id, task_name
from app.core.errors import UserError

BROKEN = {
    "unclosed": (b"a: [1\nb: }", "line 2: is no valid YAML: did not find expected ',' or ']'"),
    "twice": (b"seed: 1\nseed: 2\n", "line 2: is no valid YAML: found duplicate key seed"),
    "tag": (
        b"seed: !!python/object/apply:os.getcwd []\n",
        "line 1: is no valid YAML: could not determine a constructor",
    ),
    "alias": (b"seed: *nothing\n", "line 1: is no valid YAML: found undefined alias"),
    "list as a key": (b"? [a, b]\n: 1\n", "is no valid YAML: found unhashable key"),
    "control character": (b"seed: 1\x00\n", "is no valid YAML: control characters are not allowed at position 7"),
    "other encoding": ("name: Zoë\n".encode("latin-1"), r"is no text in UTF-8 \(invalid continuation byte at byte 8\)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_of_the_configuration_is_one_sentence(tmp_path, monkeypatch, kind):
    content, sentence = BROKEN[kind]
    (tmp_path / "config.yaml").write_text("defaults:\n  - experiment: null\n")
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment" / "mine.yaml"
    path.write_bytes(content)

    def command() -> None:
        with initialize_config_dir(str(tmp_path)):
            compose("config", ["experiment=mine"])

    monkeypatch.setattr("sys.argv", ["train.py", f"--config-dir={tmp_path}", "experiment=mine"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match=f"^{path}.*{sentence}") as ended:
        run(command, "app.config.schema:Config")
    assert "\n" not in ended.value.code


@pytest.mark.parametrize(
    ("task_id", "module", "name", "shown"),
    [
        ("Pendulum-v1", None, "Pendulum-v1", "Pendulum-v1"),
        ("my_tasks:Reach-v0", "my_tasks", "Reach-v0", "my_tasks-Reach-v0"),
        ("a.b:c/Reach-v0", "a.b", "c/Reach-v0", "a.b-c-Reach-v0"),
        (":/", "", "/", "task"),
    ],
)
def test_id_of_a_task_has_a_module_and_a_name(task_id, module, name, shown):
    assert split_task_id(task_id) == (module, name) and task_name(task_id) == shown


@pytest.mark.parametrize(
    ("words", "folders", "is_refused"),
    [
        (["env.id=my_tasks:Own-v0"], [CONF, "/theirs"], False),
        (["env.id=other:Own-v0,my_tasks:Own-v0", "-m"], [CONF, "/theirs"], False),
        (["seed=1"], [CONF], False),  # in conf/ of this checkout
        (["+mine=best", "env.max_steps=3"], [CONF, "/theirs"], True),
        (["env.id=other:Own-v0", "-m"], [CONF, "/theirs"], True),  # a file has a search space of its own
        (["seed=1"], ["/theirs"], True),  # --config-path
    ],
)
def test_module_of_a_task_is_taken_from_no_file_of_somebody_else(monkeypatch, words, folders, is_refused):
    sources = [SimpleNamespace(path=str(folder), schema="file") for folder in folders]
    sources.append(SimpleNamespace(path="hydra.conf", schema="pkg"))
    # A file can add to the overrides.
    overrides = SimpleNamespace(task=["env.id=my_tasks:Own-v0", *words])
    hydra = SimpleNamespace(overrides=overrides, runtime=SimpleNamespace(config_sources=sources))
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    if not is_refused:
        require_typed_id("my_tasks:Own-v0")
        return
    with pytest.raises(UserError, match="outside conf/.* add env.id=my_tasks:Own-v0$"):
        require_typed_id("my_tasks:Own-v0")
