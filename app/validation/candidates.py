"""Which configurations are compared: the default, and the best of what the search found."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import optuna

from app.config.commands import ValidateConfig
from app.config.schema import Config
from app.errors import UserError
from app.files import strict_json
from app.runs.config_file import read_config
from app.runs.fingerprint import Flat, differences, flatten
from app.sweep.folder import StudyFolder
from app.sweep.records import Record, ranked, read_records

# Beginnings of keys that decide where a run goes and what a person gets to see, and not what it learns.
_NOT_LEARNED = (
    "seed", "device", "threads", "run_name", "runs_dir", "sweeps_dir", "logger.", "restart", "pruner.",
    "health.on_collapse", "replay.keep", "training.checkpoint_interval_s",
)  # fmt: skip
_DIGITS = 8  # of the hash


@dataclass(frozen=True)
class Candidate:
    """A configuration to train on every seed.

    Attributes:
        name: "default" or "trial-" with the number.
        config: as the search had it.
        settings: in which it differs from the default, as lines "key: default → candidate".
        trial: its number; None for the default.
        score: in the search; None for the default.
        end: how the trial ended; "" for the default.
    """

    name: str
    config: Config
    settings: tuple[str, ...] = ()
    trial: int | None = None
    score: float | None = None
    end: str = ""

    @property
    def run_name(self) -> str:
        """The beginning of its runs' names: another configuration never has the same."""
        learned = strict_json(_learned(self.config))
        return f"{self.name}-{hashlib.sha256(learned.encode()).hexdigest()[:_DIGITS]}"


def choose(folder: StudyFolder, study: optuna.Study, cfg: ValidateConfig) -> tuple[list[Candidate], list[str]]:
    """Choose the default and the best finished trials of a study; equal settings count once.

    Args:
        folder: of the study.
        study: as its storage has it.
        cfg: how many, and which seeds they are to be trained on.

    Returns:
        The candidates, the default first, then the trials, best first; and what a person must know about the choice.

    Raises:
        UserError: there is nothing to compare, or the search has seen one of the seeds.
    """
    if len(study.directions) > 1:
        raise UserError(f"study = {study.study_name}: has several objectives, and no trial is the best in all of them.")
    records = read_records(study)
    candidates, notes = [Candidate("default", _scheduled(_default_config(folder), cfg.epochs))], []
    for record in ranked(records, study.direction.name.lower()):
        if record.is_broken:
            break  # and so are all that follow
        if len(candidates) > cfg.top_k:
            break
        try:
            candidate = _candidate(folder, record, candidates[0], cfg.epochs)
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
    _refuse_seen(cfg.seeds, records, candidates)
    return candidates, notes


def _candidate(folder: StudyFolder, record: Record, default: Candidate, epochs: int | None) -> Candidate:
    if record.folder is None:
        raise UserError(f"the study does not name its folder below {folder.trials}.")
    config = _scheduled(read_config(folder.trials / record.folder / "config.yaml"), epochs)
    settings = differences(_learned(default.config), _learned(config))
    end = f"{record.end}: {record.reason}" if record.reason else record.end
    return Candidate(f"trial-{record.number}", config, tuple(settings), record.number, record.score, end)


def _learned(config: Config) -> Flat:
    """Return the settings that decide what a run learns, but for its seed."""
    return {key: value for key, value in flatten(asdict(config)).items() if not key.startswith(_NOT_LEARNED)}


def _scheduled(config: Config, epochs: int | None) -> Config:
    return config if epochs is None else replace(config, training=replace(config.training, epochs=epochs))


def _default_config(folder: StudyFolder) -> Config:
    path = folder.path / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"study = {folder.path.name}: {path} is missing, the configuration from before the search. "
            "A sweep writes it when it begins: give its command once more, with the n_trials that it had."
        )
    return read_config(path)


def _refuse_seen(seeds: Sequence[int], records: Sequence[Record], candidates: Sequence[Candidate]) -> None:
    """Raise if the search trained with one of the seeds: what it chose could owe its score to that seed."""
    seen = {str(candidate.config.seed) for candidate in candidates}
    seen |= {str(told["seed"]) for record in records for told in (record.fixed, record.params) if "seed" in told}
    if repeated := [seed for seed in seeds if str(seed) in seen]:
        raise UserError(
            f"seeds = {list(seeds)}: the search has seen seed {repeated[0]}, so it cannot show that what was found is "
            "more than luck with that seed. Name others, such as seeds=[100,101,102]."
        )
