"""Candidates of a validation: the default configuration and the best trials of the search."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import optuna

from app.config.schema import Config
from app.config.schema_commands import ValidateConfig
from app.core.atomic_files import strict_json
from app.core.errors import UserError
from app.runs.config_file import read_config
from app.runs.fingerprint import FlatDict, differences, flatten
from app.sweep.report.records import TrialRecord, ranked, read_records
from app.sweep.study_folder import StudyFolder

# Beginnings of keys that decide where a run is and what it shows, but not what it learns.
_NOT_LEARNED = (
    "seed", "device", "threads", "run_name", "runs_dir", "sweeps_dir", "logger.", "restart", "pruner.",
    "health.on_collapse", "replay.keep_after_trial", "training.checkpoint_interval_s",
)  # fmt: skip
_DIGITS = 8  # of the hash


@dataclass(frozen=True)
class Candidate:
    """A configuration that is trained on every seed.

    Attributes:
        name: "default" or "trial-" with the number.
        config: Configuration of the search.
        settings: Differences from the default, as lines "key: default → candidate".
        trial: Number of the trial; None for the default.
        score: Score in the search; None for the default.
        end: End of the trial in the search; None for the default.
    """

    name: str
    config: Config
    settings: tuple[str, ...] = ()
    trial: int | None = None
    score: float | None = None
    end: str | None = None

    @property
    def run_name(self) -> str:
        """Beginning of the names of its runs; no other configuration has the same."""
        learned = strict_json(_learned(self.config))
        return f"{self.name}-{hashlib.sha256(learned.encode()).hexdigest()[:_DIGITS]}"


def select_candidates(
    folder: StudyFolder, study: optuna.Study, cfg: ValidateConfig
) -> tuple[list[Candidate], list[str]]:
    """Select the default and the best finished trials of a study; trials with equal settings count once.

    Args:
        folder: Folder of the study.
        study: The study in its storage.
        cfg: Number of trials, seeds and epochs of the validation.

    Returns:
        The candidates, the default first, then the trials, best first; and remarks on the selection.

    Raises:
        UserError: There is nothing to compare, or the search has used one of the seeds.
    """
    if len(study.directions) > 1:
        raise UserError(f"study = {study.study_name}: has several objectives, and no trial is the best in all of them.")
    records = read_records(study)
    candidates, notes = [Candidate("default", _with_epochs(_default_config(folder), cfg.epochs))], []
    for record in ranked(records, study.direction.name.lower()):
        if record.is_broken:
            break  # and so are all that follow
        if len(candidates) > cfg.top_k:
            break
        try:
            candidate = _make_candidate(folder, record, candidates[0], cfg.epochs)
        except UserError as error:
            notes.append(f"trial {record.number} (score {record.score:.4g}) is left out: {error}")
            continue
        same = [other.name for other in candidates if other.settings == candidate.settings]
        if same:
            notes.append(f"trial {record.number} has the settings of {same[0]}, and counts once with it")
        else:
            candidates.append(candidate)
    if len(candidates) == 1:
        raise UserError("\n".join([f"study = {study.study_name}: has no finished trial to compare.", *notes]))
    if len(candidates) <= cfg.top_k:
        notes.append(f"top_k = {cfg.top_k}: there are only {len(candidates) - 1} such trials")
    _require_new_seeds(cfg.seeds, records, candidates)
    return candidates, notes


def _make_candidate(folder: StudyFolder, record: TrialRecord, default: Candidate, epochs: int | None) -> Candidate:
    if record.folder is None:
        raise UserError(f"the study does not name its folder below {folder.trials}.")
    config = _with_epochs(read_config(folder.trials / record.folder / "config.yaml"), epochs)
    settings = differences(_learned(default.config), _learned(config))
    end = f"{record.end}: {record.reason}" if record.reason else record.end
    return Candidate(f"trial-{record.number}", config, tuple(settings), record.number, record.score, end)


def _learned(config: Config) -> FlatDict:
    """Return the settings that decide what a run learns, without its seed."""
    return {key: value for key, value in flatten(asdict(config)).items() if not key.startswith(_NOT_LEARNED)}


def _with_epochs(config: Config, epochs: int | None) -> Config:
    return config if epochs is None else replace(config, training=replace(config.training, epochs=epochs))


def _default_config(folder: StudyFolder) -> Config:
    path = folder.path / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"study = {folder.path.name}: {path} is missing, the configuration from before the search. "
            "A sweep writes it when it begins: give its command once more, with the n_trials that it had."
        )
    return read_config(path)


def _require_new_seeds(seeds: Sequence[int], records: Sequence[TrialRecord], candidates: Sequence[Candidate]) -> None:
    """Raise if the search trained with one of the seeds: its best trials could owe their score to that seed."""
    used = {str(candidate.config.seed) for candidate in candidates}
    used |= {str(values["seed"]) for record in records for values in (record.fixed, record.params) if "seed" in values}
    if repeated := [seed for seed in seeds if str(seed) in used]:
        raise UserError(
            f"seeds = {list(seeds)}: the search has used seed {repeated[0]}, so it cannot show that what was found is "
            "more than luck with that seed. Name others, such as seeds=[100,101,102]."
        )
