"""The launchers that run jobs on a cluster: which extra brings them, and what their failures mean."""

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
# What is in a failure, its kind before its text, and what to do about it; the first that fits.
_ADVICE = {
    'Could not detect "srun"': (
        "Start it on a machine of the cluster; hydra/launcher=submitit_local tries the same without one."
    ),
    "sbatch: error": "Set hydra.launcher.partition and the keys beside it as this cluster wants them.",
    "UncompletedJobError": (
        "It was killed, perhaps because memory or time ran out: hydra.launcher.mem_gb and hydra.launcher.timeout_min "
        "give more. The same command goes on with what was stopped."
    ),
    "any running Ray instance": (
        "Start one with ray start --head, or name the head of another with hydra.launcher.ray.init.address; "
        "hydra/launcher=ray starts one for this command alone."
    ),
    "connect to Ray": "Check hydra.launcher.ray.init.address, and that the cluster is up.",
    "WorkerCrashedError": "It was killed. The same command goes on with what was stopped.",
    "OutOfMemoryError": "A smaller replay.capacity helps, or fewer jobs at once: hydra.launcher.ray.remote.num_cpus.",
}
_UNKNOWN = "HYDRA_FULL_ERROR=1 in the environment shows the whole error."


def not_installed(config: str) -> str | None:
    """Return the sentence for a launcher whose plugin is missing; None if what is missing is no such launcher.

    Args:
        config: what could not be found, such as "hydra/launcher/ray".
    """
    group, _, option = config.rpartition("/")
    if group != _GROUP or option not in _EXTRAS:
        return None
    return f"{_GROUP} = {option}: is not installed. Install it with: {_INSTALL[_EXTRAS[option]]}"


def failed(error: Exception) -> str | None:
    """Return why a launcher could not run its jobs; None if the error comes from elsewhere, such as from a job.

    A job that raises does not raise in the launcher: the error is part of what the job returns.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "launch"]
    names = [re.fullmatch(r"hydra_plugins\.hydra_(\w+)_launcher\..*", frame.f_globals["__name__"]) for frame in frames]
    name = next((name[1] for name in names if name), None)
    if name is None:
        return None
    found = f"{type(error).__name__}: {error}"
    advice = next((words for part, words in _ADVICE.items() if part in found), _UNKNOWN)
    return f"The jobs of {name} failed: {_shortened(str(error))} {advice}"


def _shortened(text: str) -> str:
    """The text as one sentence; of a log that stands in it between dashes, the last line."""
    head, *log = re.split(r"^-{10,}$", text, flags=re.MULTILINE)
    lines = [*head.splitlines(), *(log[0].strip().splitlines()[-1:] if log else [])]
    return "; ".join(line.strip().rstrip(".") for line in lines if line.strip()) + "."
