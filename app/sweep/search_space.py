"""Search space of a study: the overrides of its trials, what is searched, and the sampler that chooses the values."""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import instantiate

# The module is private, but only this function reads a distribution as the Optuna sweeper does.
from hydra_plugins.hydra_optuna_sweeper._impl import (
    create_optuna_distribution_from_override,
    create_params_from_overrides,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from app.config.describe import known_keys, mapping_keys
from app.config.key_effects import can_change_result
from app.config.load import CONF, ConfigError, invalid_option, unknown_key, validate
from app.config.multirun import without_hydra
from app.config.schema import Config
from app.core.errors import UserError
from app.sweep.study_fingerprint import is_part

_SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")  # what the Optuna sweeper would call
_KEEP_THEIR_SEED = ("optuna.samplers.GridSampler", "optuna.samplers.QMCSampler")
_REHEARSED_TRIALS = 2  # the first one is random in every sampler


@dataclass(frozen=True)
class SearchSpace:
    """Overrides of every trial, and what is searched by them.

    Attributes:
        overrides: Overrides, searched or fixed; no key stands in two of them.
        distributions: Distribution of each searched key or group.
    """

    overrides: tuple[str, ...]
    distributions: Mapping[str, BaseDistribution]

    @property
    def combinations(self) -> int | None:
        """Number of combinations of values; None if a key has an interval of fractions."""
        counts = [_count_values(distribution) for distribution in self.distributions.values()]
        return None if None in counts else math.prod(counts)

    def is_exhausted(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether trials have tried every combination of values, under the fixed settings of this space.

        Args:
            trials: Complete trials of the study, whose launches may have searched other values and fixed other keys.
        """
        if self.combinations is None or self.combinations > len(trials):
            return False
        _, settings, _ = create_params_from_overrides(list(self.overrides))
        fixed = {key: value for key, value in settings.items() if can_change_result(key)}
        tried = {
            tuple(trial.params[key] for key in self.distributions)
            for trial in trials
            if self._contains(trial.params) and fixed.items() <= trial.user_attrs.items()
        }
        return len(tried) == self.combinations

    def _contains(self, params: Mapping[str, Any]) -> bool:
        return params.keys() == self.distributions.keys() and all(
            _is_value(distribution, params[key]) for key, distribution in self.distributions.items()
        )


def read_search_space(hydra: DictConfig) -> SearchSpace:
    """Return the search space of a sweep: that of its option of ``sweep``, as the command line changes it.

    Args:
        hydra: The node ``hydra`` of the configuration.

    Raises:
        UserError: An override cannot be read or searched, or two of them set the same value.
    """
    params = hydra.sweeper.params or {}
    given = [*(f"{key}={value}" for key, value in params.items()), *hydra.overrides.task]
    try:
        overrides = _last_of_each_key(OverridesParser.create().parse_overrides(given))
    except HydraException as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"hydra.sweeper.params: a key or value here or on the command line cannot be read ({reason}). Write it as "
            "key: choice(...), range(...) or interval(...)."
        ) from None
    _refuse_parts(overrides)
    distributions = {_key(override): _distribution(override) for override in overrides if override.is_sweep_override()}
    return SearchSpace(tuple(map(_text, overrides)), distributions)


def check_search_space(space: SearchSpace, cfg: DictConfig) -> None:
    """Refuse searched keys and values that no trial would accept, before a study is made for them.

    Args:
        space: The search space.
        cfg: Whole configuration before anything is searched.

    Raises:
        ConfigError: It names every such key and value.
    """
    known, mappings = set(known_keys(Config)), tuple(mapping_keys(Config))
    groups = {key: key.partition("@")[0] for key in space.distributions if _is_group(key)}
    problems, values = [], {}
    for key, distribution in space.distributions.items():
        if key in groups:
            problems += _option_problems(groups[key], distribution, cfg.hydra)
        elif whole := next((name for name in mappings if key.startswith(f"{name}.")), None):
            problems.append(
                f"{key}: a single name of {whole} cannot be searched. Search all of {whole}, as in "
                f"{whole}={{a:1}},{{a:2}}, or give it one value."
            )
        elif re.split(r"\.\d", key)[0] not in known:  # without the item of a list
            problems.append(unknown_key(key, Config))
        elif not is_part(key, groups.values()):  # of which another option may have the key, or other bounds for it
            values[key] = _outermost(distribution)
    problems += _value_problems(values, without_hydra(cfg))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def check_sampler(sampler: DictConfig | None, space: SearchSpace) -> None:
    """Refuse a sampler that cannot search a space, by asking it for trials of a study that is kept nowhere.

    Args:
        sampler: Section ``hydra.sweeper.sampler``.
        space: The search space.

    Raises:
        UserError: The sampler cannot be made, or cannot search the space.
    """
    if sampler is None:
        raise UserError("hydra.sweeper.sampler = null: a search needs a sampler, such as hydra/sweeper/sampler=tpe.")
    try:
        made = instantiate(sampler, _execution_whitelist_=_SAMPLERS)
        if isinstance(made, functools.partial):  # the grid takes its points from the Optuna sweeper
            _require_discrete(space)
            return
        study = optuna.create_study(sampler=made)
        for _ in range(_REHEARSED_TRIALS):
            study.tell(study.ask(dict(space.distributions)), 0.0)
    except UserError:
        raise
    except Exception as error:  # whatever a sampler raises
        reason = next(iter(str(error.__cause__ or error).splitlines()), "").rstrip(".")
        missing = f" Install it with: python -m pip install {error.name}." if isinstance(error, ImportError) else ""
        raise UserError(
            f"hydra.sweeper.sampler = {_sampler_name(sampler)}: cannot search this space ({reason}).{missing} Correct "
            "its keys, or use hydra/sweeper/sampler=tpe or random."
        ) from None


def sampler_of_launch(sampler: DictConfig, launches: int) -> DictConfig:
    """Return the sampler for a launch of a study: with a fixed seed, each launch draws other trials, reproducibly.

    A grid and a sequence find in the study how far earlier launches have come, and need the same seed for that.

    Args:
        sampler: Section ``hydra.sweeper.sampler``.
        launches: Number of earlier launches of the study.
    """
    seed = sampler.get("seed")
    if seed is None or not launches or sampler._target_ in _KEEP_THEIR_SEED:
        return sampler
    (derived,) = np.random.SeedSequence((seed, launches)).generate_state(1)
    return OmegaConf.merge(sampler, {"seed": int(derived)})


def _key(override: Override) -> str:
    """Return the key of an override without its sign, and with the items of lists as ``key.1``."""
    return re.sub(r"\[(\w+)\]", r".\1", override.get_key_element().lstrip("+~"))


def _text(override: Override) -> str:
    """Return an override as a text; a searched key has one spelling, which is its name in the study."""
    if not override.is_sweep_override() or _is_group(_key(override)):
        return override.input_line
    return f"{_key(override)}={override.input_line.partition('=')[2]}"


def _is_group(key: str) -> bool:
    return (CONF / key.partition("@")[0]).is_dir()


def _last_of_each_key(overrides: Sequence[Override]) -> list[Override]:
    """Return the overrides without those that a later one replaces: one of the same key, or of all that holds it.

    An option of a group replaces no single keys: these change what it has chosen.
    """
    kept: list[Override] = []
    for override in overrides:
        key = _key(override)
        replaced = [] if _is_group(key) else [key]
        kept = [earlier for earlier in kept if _key(earlier) != key and not is_part(_key(earlier), replaced)]
        kept.append(override)
    return kept


def _refuse_parts(overrides: Sequence[Override]) -> None:
    """Refuse to search a list and one of its items, or to search an item of a list that is fixed after it."""
    for whole, part in combinations(overrides, 2):
        is_searched = whole.is_sweep_override() or part.is_sweep_override()
        if is_searched and not _is_group(_key(whole)) and is_part(_key(part), [_key(whole)]):
            raise UserError(
                f"{part.input_line}: is a part of {whole.input_line}, so one of them would be searched without effect. "
                f"Name either {_key(whole)} or its parts."
            )


def _distribution(override: Override) -> BaseDistribution:
    try:
        found = create_optuna_distribution_from_override(override)
        if isinstance(found, FloatDistribution) and not (math.isfinite(found.low) and math.isfinite(found.high)):
            raise ValueError("its bounds must be finite")
        return found
    except (ValueError, NotImplementedError, AssertionError) as error:
        reason = f" ({str(error).rstrip('.')})" if str(error) else ""
        raise UserError(
            f"{_key(override)} = {override.input_line.partition('=')[2]}: Optuna cannot search this{reason}. Write "
            "choice(...), range(...) or interval(...), the lower bound first; tag(log, ...) needs one above 0."
        ) from None


def _option_problems(group: str, distribution: BaseDistribution, hydra: DictConfig) -> list[str]:
    name = group.partition("@")[0]
    sources = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    options = sorted({path.stem for source in (CONF, *sources) for path in (Path(source) / name).glob("*.yaml")})
    wrong = [value for value in _outermost(distribution) if value is not None and str(value) not in (*options, "null")]
    return [invalid_option(name, str(value), options) for value in wrong]


def _value_problems(values: Mapping[str, Sequence[Any]], settings: DictConfig) -> Iterator[str]:
    """Yield a sentence for every value that the schema refuses; rules between keys are left to the trials.

    The schema judges every key for itself, so that a value of each is tried at once.

    Args:
        values: Values to try, by key.
        settings: Configuration before anything is searched.
    """
    changed = OmegaConf.create(OmegaConf.to_container(settings, resolve=True))
    for number in range(max(map(len, values.values()), default=0)):
        for key, choices in values.items():
            try:
                OmegaConf.update(changed, key, _as_value(choices[number % len(choices)]))
            except (OmegaConfBaseException, HydraException, IndexError):  # no such item of a list
                yield unknown_key(key, Config)
        try:
            validate(changed, Config)
        except ConfigError as error:
            yield from error.problems


def _as_value(choice: Any) -> Any:
    """Return a choice as a trial gets it: Hydra reads texts again, such as that of a list."""
    return OverridesParser.create().parse_override(f"key={choice}").value() if isinstance(choice, str) else choice


def _count_values(distribution: BaseDistribution) -> int | None:
    """Return the number of values of a distribution; None for fractions."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    return None


def _is_value(distribution: CategoricalDistribution | IntDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return value in range(distribution.low, distribution.high + 1, distribution.step)


def _outermost(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the choices, or both ends with a value between them, which shows whether fractions are allowed."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if distribution.step is not None or distribution.single():
        return (distribution.low, distribution.high)
    return (distribution.low, distribution.high, distribution.low + (distribution.high - distribution.low) / math.pi)


def _require_discrete(space: SearchSpace) -> None:
    for key, distribution in space.distributions.items():
        if isinstance(distribution, FloatDistribution) and distribution.step is None:
            raise UserError(
                f"{key}: the grid sampler needs a list of values, and an interval has none. Write choice(...) or "
                f"range(...), fix it with {key}=..., or use hydra/sweeper/sampler=tpe."
            )


def _sampler_name(sampler: DictConfig) -> str:
    return str(sampler.get("_target_")).rpartition(".")[2]
