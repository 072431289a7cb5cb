"""The Python packages that this project asks for, and those that are installed."""

import platform
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from app.config.schema import Config
from app.diagnosis.finding import Finding

PROJECT = "trackmania-droq"
INSTALL = "Install what pyproject.toml asks for: python -m pip install -c constraints.txt -e . (docs/install.md)."


def python(_: Config) -> Finding:
    """Compare the version of Python with the one that the project needs."""
    version, needed = platform.python_version(), metadata.metadata(PROJECT)["Requires-Python"]
    found = f"{version}; this project needs {needed}"
    if SpecifierSet(needed).contains(version, prereleases=True):
        return Finding("ok", found)
    return Finding("broken", found, "Make the virtual environment with another Python.")


def required(_: Config) -> Finding:
    """Look for the packages that every run needs."""
    wanted = _requirements(PROJECT, "")
    absent = [words for one in wanted for words in lacking(one)]
    if not absent:
        return Finding("ok", f"all {len(wanted)} that pyproject.toml asks for are installed")
    return Finding("missing", "; ".join(absent), INSTALL)


def extras(_: Config) -> Finding:
    """Look for the packages that only some need."""
    names = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    absent = {name: [words for one in _requirements(PROJECT, name) for words in lacking(one)] for name in names}
    words = [f"{name} ({', '.join(found)})" for name, found in absent.items() if found]
    if not words:
        return Finding("ok", f"all are installed: {', '.join(names)}")
    one = next(name for name, found in absent.items() if found)
    return Finding(
        "note",
        f"not complete, and only needed by who asks for them: {'; '.join(words)}",
        f'To install one: python -m pip install -c constraints.txt -e ".[{one}]" (docs/install.md).',
    )


def lacking(requirement: Requirement) -> list[str]:
    """Return a few words for everything that is not installed as a requirement, with its extras, wants it."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return [f"{requirement.name} is not installed"]
    if not requirement.specifier.contains(version, prereleases=True):
        return [f"{requirement.name} is {version}, not {requirement.specifier}"]
    parts = [part for extra in sorted(requirement.extras) for part in _requirements(requirement.name, extra)]
    return [words for part in parts for words in lacking(part)]


def _requirements(package: str, extra: str) -> list[Requirement]:
    """Return what an installed package needs on this machine: for an extra alone, or ("") without any."""
    wanted = [Requirement(text) for text in metadata.requires(package) or []]
    always = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [one for one in wanted if one not in always and one.marker.evaluate({"extra": extra})]
