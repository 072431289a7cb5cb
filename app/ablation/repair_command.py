"""Commands of ``app/train.py`` that repeat a run with a switch repaired."""

import shlex
from collections.abc import Sequence

from app.config.faults import Fault
from app.config.schema import Config
from app.config.types import LONGEST_NAME
from app.runs.run_overrides import run_overrides


def repair_command(config: Config, faults: Sequence[Fault]) -> str | None:
    """Return the command that repeats a run without some of its faults.

    Args:
        config: Configuration of the run.
        faults: The faults, which have a switch each.

    Returns:
        The command; None if no overrides of the configuration in ``conf/`` give that of the run.
    """
    overrides = run_overrides(config)
    if overrides is None:
        return None
    switched = {key for fault in faults for key in fault.switch.keys}
    words = [f"{key}={value}" for key, value in overrides.words().items() if key not in switched]
    name = f"run_name={repaired_name(config.run_name, faults)}"
    return f"python app/train.py {shlex.join([*words, *repair_overrides(faults), name])}"


def repair_overrides(faults: Sequence[Fault]) -> list[str]:
    """Return the overrides that repair faults which have a switch each."""
    return list(dict.fromkeys(f"{key}={fault.switch.fixed}" for fault in faults for key in fault.switch.keys))


def repaired_name(name: str, faults: Sequence[Fault]) -> str:
    """Return the name of a run without some faults."""
    suffix = f"-without-fault-{'-'.join(str(fault.number) for fault in faults)}"
    return f"{name[: LONGEST_NAME - len(suffix)]}{suffix}"
