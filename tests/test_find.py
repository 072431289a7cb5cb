"""A study that was made before is found by its name, or told to be missing in words."""

import optuna
import pytest

from app.errors import UserError
from app.sweep.find import find_study


def make_study(sweeps, name: str, signed: bool = True) -> optuna.Study:
    (sweeps / name).mkdir(parents=True)
    study = optuna.create_study(study_name=name, storage=f"sqlite:///{sweeps}/{name}/study.db", direction="maximize")
    if signed:
        study.set_user_attr("trackmania_droq.fingerprint", {})
    return study


def test_a_study_is_found_by_its_name_in_its_folder_or_in_another_storage(tmp_path):
    make_study(tmp_path, "mine").enqueue_trial({})
    folder, study = find_study(tmp_path, "mine", None)
    assert (folder.path, study.study_name, len(study.trials)) == (tmp_path / "mine", "mine", 1)
    optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path}/all.db")
    assert not find_study(tmp_path, "mine", f"sqlite:///{tmp_path}/all.db")[1].trials


def test_a_study_that_is_not_there_is_told_with_those_that_are(tmp_path):
    make_study(tmp_path, "one"), make_study(tmp_path, "two")
    with pytest.raises(UserError, match=r"study = tow: .*there are: one, two\."):
        find_study(tmp_path, "tow", None)
    with pytest.raises(UserError, match=r"There is no study below sweeps_dir = .*empty"):
        find_study(tmp_path / "empty", "one", None)
    with pytest.raises(UserError, match=r"study = tow: is not in storage = sqlite:///.*one/study.db"):
        find_study(tmp_path, "tow", f"sqlite:///{tmp_path}/one/study.db")
    assert not (tmp_path / "tow").exists() and not (tmp_path / "empty").exists()


def test_a_study_of_another_program_is_refused(tmp_path):
    study = make_study(tmp_path, "foreign", signed=False)
    study.tell(study.ask(), 1.0)
    with pytest.raises(UserError, match="study = foreign: .*was not made by this program"):
        find_study(tmp_path, "foreign", None)


def test_a_storage_that_cannot_be_used_is_told_without_its_password(tmp_path):
    with pytest.raises(UserError, match=r"foo://u:\*\*\*@host/db: cannot be used"):
        find_study(tmp_path, "mine", "foo://u:secret@host/db")
