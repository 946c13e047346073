"""Imports between modules: no circles, and none from a lower layer to a higher layer."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("converter", "fullconv", "service")
Arrow = tuple[str, str]
"""The importing module, and the imported module, or the package if the imported name is not a module."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Return all modules, and their files."""
    return {module_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Yield the names that a file imports, at any place in the file, including imports for type checkers."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports, got a relative one"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows() -> list[Arrow]:
    """Return every import of a module of this project by another."""
    found = set()
    for module, path in modules().items():
        for name in imported(path):
            target = name if name in modules() else name.rpartition(".")[0]
            if target in modules() and target != module:
                found.add((module, target))
    return sorted(found)


def allowed(module: str, target: str) -> bool:
    """Return whether the layering allows an arrow."""
    own, other = module.partition(".")[0], target.partition(".")[0]
    if module.startswith("fullconv.protos"):
        return target.startswith("fullconv.protos")
    if module.startswith("fullconv.common"):
        return target.startswith(("fullconv.common", "fullconv.protos"))
    if own == "fullconv":
        return other == "fullconv"  # the programs are loaded by `load_program`, when they are needed
    if other == "fullconv" and module != "service.local" and not module.startswith("service.batch"):
        return target == "fullconv" or target.startswith(("fullconv.common", "fullconv.protos"))
    return other in (own, "fullconv")


LAYERS = ("dense", "engine", "scoring", "dispatch", "rpc", "rest", "server", "batch")
"""The packages of the service from the lowest layer to the highest; `images` is beside `engine`."""


def layer(module: str) -> int | None:
    """Return the layer of a module of the service; None for a module in no package."""
    package = [*module.split("."), ""][1]
    name = "engine" if package == "images" else package
    return LAYERS.index(name) if module.startswith("service.") and name in LAYERS else None


def test_no_layer_of_the_service_imports_a_higher_one() -> None:
    """A package of the service imports only packages of its own layer or of lower layers."""
    layers = [(arrow, layer(arrow[0]), layer(arrow[1])) for arrow in arrows()]
    assert [arrow for arrow, own, other in layers if own is not None and other is not None and other > own] == []


def test_no_arrow_points_to_a_higher_layer() -> None:
    """`fullconv` imports no program, programs import only its common modules, and not each other."""
    assert [arrow for arrow in arrows() if not allowed(*arrow)] == []


def test_programs_take_only_the_version_from_the_package_itself() -> None:
    """The programs import nothing but `__version__` from the package `fullconv` itself."""
    for module, path in modules().items():
        if module.partition(".")[0] in ("converter", "service"):
            names = [name for name in imported(path) if name.rpartition(".")[0] == "fullconv"]
            assert set(names) <= {"fullconv.__version__"}, module


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_circle(package: str) -> None:
    """No module imports itself through other modules, also inside of functions and for type checkers."""
    targets: dict[str, set[str]] = {}
    for module, target in arrows():
        if module.partition(".")[0] == target.partition(".")[0] == package:
            targets.setdefault(module, set()).add(target)
    assert circles(targets) == []


def circles(targets: dict[str, set[str]]) -> list[list[str]]:
    """Return circles as lists of modules in which the first module stands at the end again."""
    found: list[list[str]] = []
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in finished:
            for target in sorted(targets.get(module, ())):
                visit(target, [*path, module])
            finished.add(module)

    for module in sorted(targets):
        visit(module, [])
    return found


def test_circles_are_found() -> None:
    """`circles` finds a circle of two modules and a circle of three."""
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}}
    assert circles(graph) == [["a", "b", "a"], ["c", "d", "e", "c"]]
