"""Guards of the layout. Each is a function of a tree, so that each is also shown a tree that breaks it."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"sites": 1, "strategies": 2, "platform": 3, "tune": 4}
CODE = (*FLOORS, "src", "tests", "bench")
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".cfg", ".json", ".sh", ""}
# Built from parts: this file is searched too.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/*-])/(?:" + "|".join(("work", "root", "home", "tmp")) + r")\b")


@cache
def listed(root: Path) -> list[Path]:
    """The files that a clone holds, or in a tree without git all that is there; links and caches left out.

    A tree is read once: no guard changes it, and each broken tree is a folder of its own.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and (root / ".git").exists():
        paths = [root / name for name in done.stdout.split("\0") if name]
    else:
        paths = [path for path in root.rglob("*") if "__pycache__" not in path.parts]
    return sorted(path for path in set(paths) if path.is_file() and not path.is_symlink())


def python_files(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Name (relative, posix) and parsed source of every Python file under ``folders``."""
    for path in listed(root):
        name = path.relative_to(root)
        if path.suffix == ".py" and name.parts[0] in folders:
            yield name.as_posix(), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    """What the guards read of a file: its docstring, its imports and its constants, side by side.

    To parse all files takes the longest, so it is done once; whole trees would be looked through by each collection of
    garbage in the tests that follow.
    """
    tree = ast.parse(path.read_text())
    first = [tree.body[0]] if ast.get_docstring(tree) else [ast.Pass()]
    found = said(tree)
    constants = [ast.Expr(one) for one in found if isinstance(one, ast.Constant)]
    return ast.Module([*first, *(one for one in found if not isinstance(one, ast.Constant)), *constants], [])


def said(tree: ast.Module) -> list[ast.Import | ast.ImportFrom | ast.Constant]:
    """All imports and constants of a file. As ``ast.walk``, which takes twice as long."""
    found, left = [], list[ast.AST]([tree])
    while left:
        node = left.pop()
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Constant):
            found.append(node)
        elif not isinstance(node, ast.Name):
            for value in node.__dict__.values():
                if isinstance(value, list):
                    left += [one for one in value if isinstance(one, ast.AST)]
                elif isinstance(value, ast.AST):
                    left.append(value)
    return found


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Full dotted names of all that a file imports, at any depth; ``from a import b`` gives ``a.b``."""
    package = ["fedrecon", *Path(name).with_suffix("").parts[:-1]]
    for node in said(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_of(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# --- the guards: each yields one sentence a violation ---


def platform_shadow(root: Path) -> Iterator[str]:
    for name in ("platform/__init__.py", "tests/platform/__init__.py"):
        if (root / name).exists():
            yield f"{name} shadows Python's platform module: torch, Ray and pytest die of it"


def upward_imports(root: Path) -> Iterator[str]:
    """The front door, ``fedrecon`` itself, and the command line are above every floor."""
    for name, tree in python_files(root, *FLOORS):
        floor = FLOORS[Path(name).parts[0]]
        for module in [*imports(name, tree), *module_strings(root, tree)]:
            room = module.split(".")[1] if "." in module else ""
            if is_of(module, "fedrecon") and FLOORS.get(room, 9) > floor:
                yield f"{name} imports {module}: an import goes down only"


def module_strings(root: Path, tree: ast.Module) -> Iterator[str]:
    """Strings that name a module or package of the library: an import could hide in one."""
    for node in said(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.fullmatch(r"fedrecon(\.\w+)+", text):
            below = Path(*text.split(".")[1:])
            if any(
                (root / place / below).with_suffix(end).exists()
                for place in ("", "src/fedrecon")
                for end in ("", ".py")
            ):
                yield text


def import_graph(root: Path) -> dict[str, set[str]]:
    """The files of the library, by name, with the files that each imports, at any depth."""
    trees = dict(python_files(root, *FLOORS, "src"))
    modules = {module_name(name): name for name in trees}
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        found = set()
        for module in imports(name, tree):
            file = modules.get(module) or modules.get(module.rpartition(".")[0])
            found |= {file} if file and file != name else set()
        graph[name] = found
    return graph


def module_name(name: str) -> str:
    parts = [part for part in Path(name).with_suffix("").parts if part not in ("src", "fedrecon")]
    return ".".join(["fedrecon", *parts]).removesuffix(".__init__")


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """The strongly connected parts of a graph that have more than one member (Tarjan)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(one: str) -> None:
        numbers[one] = lowest[one] = len(numbers)
        stack.append(one)
        for other in sorted(graph.get(one, ())):
            if other not in numbers:
                visit(other)
            if other in stack:
                lowest[one] = min(lowest[one], lowest[other])
        if lowest[one] == numbers[one]:
            at = stack.index(one)
            found.append(stack[at:])
            del stack[at:]

    for one in sorted(graph):
        if one not in numbers:
            visit(one)
    yield from (sorted(part) for part in found if len(part) > 1)


def circles_of_files(root: Path) -> Iterator[str]:
    for circle in circles(import_graph(root)):
        yield f"these files import each other in a circle: {', '.join(circle)}"


def circles_of_rooms(root: Path) -> Iterator[str]:
    rooms: dict[str, set[str]] = {}
    for name, imported in import_graph(root).items():
        room = Path(name).parent.as_posix()
        rooms.setdefault(room, set()).update({Path(one).parent.as_posix() for one in imported} - {room})
    for circle in circles(rooms):
        yield f"these rooms import each other in a circle: {', '.join(circle)}"


REGISTRIES = ("strategies", "networks", "classical", "masks", "formats", "degradations")
"""Folders that hold one file for each plug-in, so that they grow with the plug-ins."""


def crowded_rooms(root: Path) -> Iterator[str]:
    counts: dict[Path, int] = {}
    for name, _ in python_files(root, *FLOORS):
        counts[Path(name).parent] = counts.get(Path(name).parent, 0) + 1
    for folder, count in counts.items():
        if count > 14 and folder.name not in REGISTRIES:
            yield f"{folder} holds {count} Python files side by side, more than 14"


def names_said_twice(root: Path) -> Iterator[str]:
    for name, _ in python_files(root, *FLOORS):
        if Path(name).stem == Path(name).parent.name:
            yield f"{name} repeats the name of its folder"


def bare_imports(root: Path) -> Iterator[str]:
    own = {path.stem for path in (root / "platform").glob("*") if path.suffix == ".py" or path.is_dir()}
    for name, tree in python_files(root, *CODE):
        for module in imports(name, tree):
            first, *rest = module.split(".")
            if first in ("sites", "strategies", "tune") or (first == "platform" and rest and rest[0] in own):
                yield f"{name} imports {module}: write fedrecon.{module}, or its classes exist twice"


def mlflow_in_one_room(root: Path) -> Iterator[str]:
    files = importers(root, "mlflow")
    if len({str(Path(name).parent) for name in files}) > 1 or any(not name.startswith("platform/") for name in files):
        yield f"mlflow is imported by {', '.join(files)}: one room of platform/ only"


def ray_in_the_execution_room(root: Path) -> Iterator[str]:
    files = [name for name in importers(root, "ray") if not name.startswith("tune/")]
    if any(not name.startswith("platform/execution/") for name in files):
        yield f"ray is imported by {', '.join(files)}: only platform/execution/ and tune/ do"


def ray_tune_in_tune(root: Path) -> Iterator[str]:
    for name in importers(root, "ray.tune"):
        if not name.startswith("tune/"):
            yield f"{name} imports ray.tune: only tune/ does"


def importers(root: Path, package: str) -> list[str]:
    """The files of the library that import ``package``, sorted."""
    files = python_files(root, *FLOORS, "src")
    return [name for name, tree in files if any(is_of(module, package) for module in imports(name, tree))]


def long_files(root: Path) -> Iterator[str]:
    for path in listed(root):
        limit = 120 if path.name == "ARCHITECTURE.md" else 400
        if path.suffix in {".py", ".md", ".yaml"}:
            lines = len(path.read_text().splitlines())
            if lines > limit:
                yield f"{path.relative_to(root)} has {lines} lines, more than {limit}"


def machine_paths(root: Path) -> Iterator[str]:
    for path in listed(root):
        if path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := MACHINE_PATH.search(line):
                yield f"{path.relative_to(root)}:{number} names a path of one machine: {found.group()}"


def missing_docstrings(root: Path) -> Iterator[str]:
    for name, tree in python_files(root, *FLOORS, "src", "bench"):
        if not ast.get_docstring(tree):
            yield f"{name} has no docstring"


def packages_without_init(root: Path) -> Iterator[str]:
    folders = {Path(name).parent for name, _ in python_files(root, *FLOORS)} - {Path("platform")}
    for folder in sorted(folders):
        if not (root / folder / "__init__.py").is_file():
            yield f"{folder} has no __init__.py"


def folders_missing_in_readme(root: Path) -> Iterator[str]:
    readme = (root / "README.md").read_text()
    for folder in sorted({path.relative_to(root).parts[0] for path in listed(root) if path.parent != root}):
        if f"{folder}/" not in readme:
            yield f"the tree in README.md does not mention {folder}/"


def decision_numbers(root: Path) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path in sorted((root / "docs" / "decisions").glob("*")):
        if not (match := re.fullmatch(r"(\d{3})-[a-z0-9-]+\.md", path.name)):
            yield f"docs/decisions/{path.name} is not named NNN-title.md"
        elif first := seen.get(match.group(1)):
            yield f"docs/decisions/{path.name} has the number of {first}"
        else:
            seen[match.group(1)] = path.name


Guard = Callable[[Path], Iterator[str]]
# A guard and the smallest tree that breaks it.
BROKEN: dict[Guard, dict[str, str]] = {
    platform_shadow: {"platform/__init__.py": ""},
    upward_imports: {"sites/a.py": "def f():\n    from ..strategies import fedavg"},
    circles_of_files: {
        "sites/a.py": "from fedrecon.sites.b import x",
        "sites/b.py": "def f():\n    from fedrecon.sites import a",
    },
    circles_of_rooms: {
        "sites/a.py": "from fedrecon.sites.data import b",
        "sites/data/b.py": "if TYPE_CHECKING:\n    from fedrecon.sites.c import x",
        "sites/c.py": "",
    },
    crowded_rooms: {f"platform/room/f{number}.py": "" for number in range(15)},
    names_said_twice: {"tune/sweep/sweep.py": ""},
    bare_imports: {"tests/a.py": "from platform import cli", "platform/cli.py": ""},
    mlflow_in_one_room: {
        "platform/a.py": "import mlflow",
        "platform/room/b.py": "from mlflow import Run",
    },
    ray_in_the_execution_room: {"sites/a.py": "import ray"},
    ray_tune_in_tune: {"platform/a.py": "from ray import tune"},
    long_files: {"platform/a.py": "x = 1\n" * 401},
    machine_paths: {"docs/a.md": "see " + "/" + "home/me/data"},
    missing_docstrings: {"sites/a.py": "x = 1"},
    packages_without_init: {"sites/imaging/a.py": ""},
    folders_missing_in_readme: {"README.md": "nothing", "lab/a.py": ""},
    decision_numbers: {"docs/decisions/001-a.md": "", "docs/decisions/001-b.md": ""},
}


@pytest.mark.slow
@pytest.mark.parametrize("guard", BROKEN, ids=lambda guard: guard.__name__)
def test_this_tree_keeps(guard: Guard) -> None:
    assert list(guard(ROOT)) == []


@pytest.mark.parametrize("guard", BROKEN, ids=lambda guard: guard.__name__)
def test_a_broken_tree_is_caught_by(guard: Guard, tmp_path: Path) -> None:
    for name, text in BROKEN[guard].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(guard(tmp_path))


@pytest.mark.parametrize(
    "source",
    [
        "import fedrecon",
        "from fedrecon import run",
        "from fedrecon.cli import main",
        'ROOM = "fedrecon.tune.sweep"',
    ],
)
def test_nothing_inside_uses_the_front_door_or_a_string_to_look_up(source: str, tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    (tmp_path / "tune" / "sweep").mkdir(parents=True)
    (tmp_path / "platform" / "a.py").write_text(source)
    assert list(upward_imports(tmp_path))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from fedrecon import platform", "fedrecon.platform"),
        ("import fedrecon.tune.sweep", "fedrecon.tune.sweep"),
        ("from ...platform.execution.executor import Executor", "fedrecon.platform.execution.executor.Executor"),
        ("if TYPE_CHECKING:\n    from fedrecon.platform import run", "fedrecon.platform.run"),
    ],
)
def test_every_way_to_import_is_seen(source: str, module: str) -> None:
    assert list(imports("sites/imaging/a.py", ast.parse(source))) == [module]


def test_the_rooms_are_links_of_the_package() -> None:
    for room in FLOORS:
        link = ROOT / "src" / "fedrecon" / room
        assert link.is_symlink(), f"{link} lost its link: clone with core.symlinks=true"
        assert link.readlink().as_posix() == f"../../{room}"


@pytest.mark.slow
def test_a_wheel_would_hold_every_module() -> None:
    from setuptools import find_namespace_packages

    packages = set(find_namespace_packages(str(ROOT / "src")))
    for name, _ in python_files(ROOT, *FLOORS):
        assert ".".join(("fedrecon", *Path(name).parts[:-1])) in packages


@pytest.mark.slow
def test_a_checkout_without_its_links_is_told_before_an_empty_wheel_is_built(tmp_path: Path) -> None:
    (tmp_path / "src" / "fedrecon").mkdir(parents=True)
    (tmp_path / "src" / "fedrecon" / "platform").write_text("../../platform")
    (tmp_path / "setup.py").write_bytes((ROOT / "setup.py").read_bytes())
    command = [sys.executable, "setup.py", "--name"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "symbolic links" in done.stderr


LIGHT = ["fedrecon", "fedrecon.strategies", "fedrecon.cli", "fedrecon.platform.config.experiment"]


@pytest.mark.slow
def test_import_is_light() -> None:
    """One process for all: where their union loads nothing heavy, none of them does."""
    code = f"import importlib, sys\nfor one in {LIGHT}:\n    importlib.import_module(one)\n"
    code += "    print(*(f'{one} loads {name}' for name in {'torch', 'ray', 'mlflow'} & sys.modules.keys()), end='')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
