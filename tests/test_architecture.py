"""Imports between the modules of ``app/`` point one way, lazy imports included."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A package imports from the layers above it in this table only; of one layer, only what ALLOWED_SIBLINGS names.
LAYERS = (
    {"core"},
    {"config"},
    {"envs", "runs"},
    {"models", "replay"},
    {"agents", "evaluation"},
    {"health", "reporting"},
    {"export_bundle"},
    {"training"},
    {"distributed", "sweep", "ablation", "run_list", "viewer", "driving_game"},
    {"launch", "diagnostics"},
    {"train", "evaluate", "export", "make_keys", "sweep_report", "validate", "doctor", "lab", "postmortem"}
    | {"list_runs", "replay_viewer", "play"},
)
ALLOWED_SIBLINGS = {("reporting", "health")}
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a module; of a package's ``__init__.py``, that of the package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[str]:
    """Yield every dotted name that a module imports from ``app``, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def import_graph(root: Path) -> dict[str, set[str]]:
    """Return the modules of ``root/app`` that each of them imports."""
    paths = {module_name(path, root): path for path in (root / "app").rglob("*.py")}
    graph = {}
    for module, path in paths.items():
        found = (longest_module(name, paths.keys()) for name in imported_names(path) if name.split(".")[0] == "app")
        graph[module] = {target for target in found if target is not None} - {module}
    return graph


def longest_module(name: str, modules: Iterable[str]) -> str | None:
    """Return the module that an imported name is, or is in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def between(graph: Mapping[str, set[str]], package: str) -> dict[str, set[str]]:
    """Return the imports between the direct members of a package, its modules and subpackages."""
    start = f"{package}."
    members = defaultdict(set)
    for module, targets in graph.items():
        if module.startswith(start):
            one = module.removeprefix(start).split(".")[0]
            others = {target.removeprefix(start).split(".")[0] for target in targets if target.startswith(start)}
            members[one] |= others - {one}
    return dict(members)


def cycle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Return a cycle of the graph, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    """Return every import of a package in the same layer or in one further down the table."""
    return [
        f"{one} imports {other}"
        for one, others in between(graph, "app").items()
        for other in others
        if LAYER_OF[other] >= LAYER_OF[one] and (one, other) not in ALLOWED_SIBLINGS
    ]


GRAPH = import_graph(ROOT)
PACKAGES = sorted(module_name(path, ROOT) for path in (ROOT / "app").rglob("__init__.py"))


def test_every_package_has_a_layer():
    assert between(GRAPH, "app").keys() == LAYER_OF.keys()


def test_imports_point_to_lower_layers():
    assert upward_imports(GRAPH) == []


def test_modules_form_no_cycle():
    assert cycle(GRAPH) is None


@pytest.mark.parametrize("package", PACKAGES)
def test_members_of_a_package_form_no_cycle(package):
    assert cycle(between(GRAPH, package)) is None


def test_no_two_modules_have_one_name():
    paths = defaultdict(list)
    for path in (ROOT / "app").rglob("*.py"):
        if path.stem != "__init__":
            paths[path.stem].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in paths.items() if len(found) > 1} == {}


def test_every_package_says_what_it_holds():
    empty = [package for package in PACKAGES if not ast.get_docstring(ast.parse(init_of(package)))]
    assert empty == []


def init_of(package: str) -> str:
    return (ROOT / package.replace(".", "/") / "__init__.py").read_text("utf-8")


# --- the checks see what they must ---------------------------------------------------------------------------


def write(root: Path, **modules: str) -> dict[str, set[str]]:
    for name, text in modules.items():
        path = root / "app" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return import_graph(root)


def test_lazy_import_is_seen(tmp_path):
    graph = write(tmp_path, core__one="def f():\n    from app.runs.two import x\n", runs__two="x = 1\n")
    assert graph["app.core.one"] == {"app.runs.two"}
    assert upward_imports(graph) == ["core imports runs"]


def test_import_of_a_module_from_its_package_is_seen(tmp_path):
    graph = write(tmp_path, core__one="from app.runs import two\nimport app.runs.three\n", runs__two="", runs__three="")
    assert graph["app.core.one"] == {"app.runs.two", "app.runs.three"}


def test_cycles_are_seen(tmp_path):
    modules = {"runs__a": "from app.runs.b import x", "runs__b": "def f():\n    import app.runs.a\n"}
    graph = write(tmp_path, **modules)
    assert cycle(graph) and cycle(between(graph, "app.runs"))
    # Of packages, although no module imports itself by any way.
    graph = write(tmp_path / "other", core__a="import app.runs.a", core__b="", runs__a="", runs__b="import app.core.b")
    assert not cycle(graph) and cycle(between(graph, "app"))
