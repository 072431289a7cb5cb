"""Search for an existing study by its name."""

import optuna
import pytest

from app.core.errors import UserError
from app.sweep.study_folder import find_study


def make_study(sweeps, name: str, signed: bool = True) -> optuna.Study:
    (sweeps / name).mkdir(parents=True)
    study = optuna.create_study(study_name=name, storage=f"sqlite:///{sweeps}/{name}/study.db", direction="maximize")
    if signed:
        study.set_user_attr("trackmania_droq.fingerprint", {})
    return study


def test_study_is_found_by_its_name_in_its_folder_or_in_another_storage(tmp_path):
    make_study(tmp_path, "mine").enqueue_trial({})
    folder, study = find_study(tmp_path, "mine", None)
    assert (folder.path, study.study_name, len(study.trials)) == (tmp_path / "mine", "mine", 1)
    optuna.create_study(study_name="mine", storage=f"sqlite:///{tmp_path}/all.db")
    assert not find_study(tmp_path, "mine", f"sqlite:///{tmp_path}/all.db")[1].trials


def test_missing_study_is_refused_with_the_names_of_the_others(tmp_path):
    make_study(tmp_path, "one"), make_study(tmp_path, "two")
    with pytest.raises(UserError, match=r"study = tow: .*there are: one, two\."):
        find_study(tmp_path, "tow", None)
    with pytest.raises(UserError, match=r"There is no study below sweeps_dir = .*empty"):
        find_study(tmp_path / "empty", "one", None)
    with pytest.raises(UserError, match=r"study = tow: is not in storage = sqlite:///.*one/study.db"):
        find_study(tmp_path, "tow", f"sqlite:///{tmp_path}/one/study.db")
    assert not (tmp_path / "tow").exists() and not (tmp_path / "empty").exists()


def test_study_of_another_program_is_refused(tmp_path):
    study = make_study(tmp_path, "foreign", signed=False)
    study.tell(study.ask(), 1.0)
    with pytest.raises(UserError, match="study = foreign: .*was not made by this program"):
        find_study(tmp_path, "foreign", None)


def test_unusable_storage_is_refused_without_showing_its_password(tmp_path):
    with pytest.raises(UserError, match=r"foo://u:\*\*\*@host/db: cannot be used"):
        find_study(tmp_path, "mine", "foo://u:secret@host/db")
