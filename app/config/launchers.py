"""Launchers that run jobs on a cluster: the extras that install them, and explanations of their failures."""

import re
import traceback

_GROUP = "hydra/launcher"
_EXTRAS = {
    "slurm": "slurm",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "ray_aws": "ray",
    "ray_cluster": "ray",
}
_INSTALL = {
    "slurm": 'python -m pip install -c constraints.txt -e ".[slurm]"',
    "ray": 'python -m pip install -e ".[ray]"',  # its boto3 wants an older python-dateutil than the constraints
}
# Part of "kind of error: text", and what to do about it; the first that fits counts.
_ADVICE = {
    'Could not detect "srun"': (
        "Start it on a machine of the cluster; hydra/launcher=submitit_local runs the same without one."
    ),
    "sbatch: error": "Set hydra.launcher.partition and the keys beside it as this cluster needs them.",
    "UncompletedJobError": (
        "It was killed, perhaps because memory or time ran out: hydra.launcher.mem_gb and hydra.launcher.timeout_min "
        "give more. The same command continues what was stopped."
    ),
    "any running Ray instance": (
        "Start one with ray start --head, or name the head of another with hydra.launcher.ray.init.address; "
        "hydra/launcher=ray starts one for this command alone."
    ),
    "connect to Ray": "Check hydra.launcher.ray.init.address, and that the cluster is running.",
    "WorkerCrashedError": "It was killed. The same command continues what was stopped.",
    "OutOfMemoryError": "A smaller replay.capacity helps, or fewer jobs at once: hydra.launcher.ray.remote.num_cpus.",
}
_UNKNOWN = "HYDRA_FULL_ERROR=1 in the environment shows the whole error."


def missing_plugin(config: str) -> str | None:
    """Return the sentence for a launcher whose plugin is missing; None if another configuration file is missing.

    Args:
        config: Name of the missing configuration file, such as "hydra/launcher/ray".
    """
    group, _, option = config.rpartition("/")
    if group != _GROUP or option not in _EXTRAS:
        return None
    return f"{_GROUP} = {option}: is not installed. Install it with: {_INSTALL[_EXTRAS[option]]}"


def launcher_failure(error: Exception) -> str | None:
    """Return the reason why a launcher could not run its jobs; None if the error comes from elsewhere.

    An error in a job does not come from the launcher: it is part of what the job returns.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "launch"]
    names = [re.fullmatch(r"hydra_plugins\.hydra_(\w+)_launcher\..*", frame.f_globals["__name__"]) for frame in frames]
    name = next((name[1] for name in names if name), None)
    if name is None:
        return None
    found = f"{type(error).__name__}: {error}"
    advice = next((sentence for part, sentence in _ADVICE.items() if part in found), _UNKNOWN)
    return f"The jobs of {name} failed: {_first_sentence(str(error))} {advice}"


def _first_sentence(text: str) -> str:
    """Return the text as one sentence, with only the last line of a log that it quotes between dashes."""
    head, *log = re.split(r"^-{10,}$", text, flags=re.MULTILINE)
    lines = [*head.splitlines(), *(log[0].strip().splitlines()[-1:] if log else [])]
    return "; ".join(line.strip().rstrip(".") for line in lines if line.strip()) + "."
