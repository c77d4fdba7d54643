"""The map of the code: which folder may import which, and what a folder offers to the others."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cifar_jax"
# From the top down. A folder imports from those below it only.
ROOMS = (
    "__main__",
    "cli",
    "api",
    "pages",
    "comparing",
    "training",
    "inference",
    "storage",
    "config",
    "reporting",
    "steps",
    "runtime",
    "models",
    "ops",
    "data",
    "system",
    "errors",
)

# The rooms that are a file, and what they offer.
FILES = {"__main__": {"run"}, "errors": {"UserError"}}


def imports(source: str) -> list[tuple[str, str]]:
    """(module, name) of everything that a file's text imports from the package."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(x.name, "") for x in node.names if x.name.split(".")[0] == PACKAGE]
    return found


def room_and_name(module: str, name: str) -> tuple[str, str]:
    """("steps", "augment") of `from cifar_jax.steps import augment`; a room as a whole has no name."""
    parts = [*module.split("."), name][1:]
    return parts[0], ".".join(parts[1:])


def offered(room: str) -> set[str]:
    """The names in `__all__` of a room."""
    if room in FILES:
        return FILES[room]
    path = ROOT / PACKAGE / room / "__init__.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no __all__")


def product_files() -> list[tuple[str, str, str]]:
    """(room, module, text) of every file of the package and of what is built on it."""
    files = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            files.append((parts[0], ".".join(parts).removesuffix(".__init__"), path.read_text()))
    others = [
        ROOT / "main.py",
        *(ROOT / "configs").rglob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
    ]
    return files + [("", str(path.relative_to(ROOT)), path.read_text()) for path in others]


def upward(room: str, module: str, source: str) -> list[str]:
    """The imports of one file that point up, as "models.resnet imports training"."""
    targets = {room_and_name(*found)[0] for found in imports(source)} - {"__version__"}
    return [
        f"{module} imports {target}"
        for target in sorted(targets)
        if room in ROOMS and ROOMS.index(target) < ROOMS.index(room)
    ]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or through others, as "a -> b -> a"."""
    found, done = [], set()

    def visit(module, trail):
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_every_folder_is_on_the_map():
    paths = [path for path in (ROOT / PACKAGE).iterdir() if path.name not in ("__pycache__",)]
    assert {path.stem for path in paths} - {"__init__"} == set(ROOMS)


def test_no_import_points_up():
    assert [line for file in product_files() for line in upward(*file)] == []


def test_no_modules_import_each_other():
    files = [file for file in product_files() if file[0]]
    modules = {module for _, module, _ in files}
    graph = {}
    for _, module, source in files:
        targets = {
            f"{found[0]}.{found[1]}".removeprefix(f"{PACKAGE}.") for found in imports(source)
        }
        targets |= {found[0].removeprefix(f"{PACKAGE}.") for found in imports(source)}
        # A room's own modules import from the room, whose __init__ imports them.
        graph[module] = targets & modules - {*ROOMS, module}
    assert circles(graph) == []


def test_other_rooms_take_only_what_a_room_offers():
    wrong = []
    for room, module, source in product_files():
        for found in imports(source):
            target, name = room_and_name(*found)
            if target not in (room, "__version__") and name and name not in offered(target):
                wrong.append(f"{module} imports {target}.{name}")
    assert wrong == []


def test_what_a_room_offers_is_there():
    for room in set(ROOMS) - set(FILES):
        package = ROOT / PACKAGE / room
        source = (package / "__init__.py").read_text()
        imported = {name for _, name in imports(source)}
        defined = {
            name
            for node in ast.parse(source).body
            for name in [getattr(node, "name", ""), *map(ast.unparse, getattr(node, "targets", []))]
        } | {ast.unparse(n.target) for n in ast.parse(source).body if isinstance(n, ast.AnnAssign)}
        modules = {path.stem for path in package.iterdir()}
        assert offered(room) <= imported | defined | modules, room


@pytest.mark.parametrize(
    ("module", "source", "line"),
    [
        ("models.resnet", "from cifar_jax import training", "models.resnet imports training"),
        ("steps.state", "import cifar_jax.cli.arguments", "steps.state imports cli"),
        ("data.cache", "from cifar_jax.ops import cpu_kernels", "data.cache imports ops"),
    ],
)
def test_an_import_that_points_up_is_found(module, source, line):
    assert upward(module.split(".")[0], module, source) == [line]


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a -> b -> c -> a"]
