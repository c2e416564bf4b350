"""The imports between the rooms of tfrl, read from the code, are those of the map in WORKSPACE.md.

The map is the table under "Rooms". Its rows are in the order of the imports: a row may import from rows above it, and
only from those that it names. What is imported inside a function counts; what annotations alone need does not.
"""

from __future__ import annotations

import ast
import pathlib
import re
from typing import NamedTuple

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[1]
ANY = "everything above"
HEAVY = ("tensorflow", "keras", "reverb", "gymnasium", "tensorflow_probability", "matplotlib")
# Where the commands and `import tfrl` begin.
LIGHT = (
    "tfrl/__init__.py",
    "tfrl/api.py",
    "tfrl/job.py",
    "tfrl/cli",
    "tfrl/config",
    "tfrl/command.py",
)


class Room(NamedTuple):
    """A row of the map.

    Attributes:
      paths: files and folders of the room, from the root of the tree.
      imports: what it may import, files or folders; None for everything above it.
    """

    paths: tuple[str, ...]
    imports: tuple[str, ...] | None


class Arrow(NamedTuple):
    """An import: both files from the root of the tree, and whether it is at the top level of its module."""

    source: str
    target: str
    top: bool


def rooms(page: str) -> list[Room]:
    """Reads the map from the text of the page."""
    table = page[page.index("## Rooms") :].split("\n## ", 1)[0]
    found = []
    for line in re.findall(r"^\| `.*\|$", table, re.M):
        first, _, last = (cell.strip() for cell in line.strip("|").split(" | "))
        paths = [path.rstrip("/") for path in re.findall(r"`([^`]+)`", first)]
        folder = paths[0].rpartition("/")[0]
        paths = [path if path.startswith("tfrl") else f"{folder}/{path}" for path in paths]
        names = re.findall(r"`([^`]+)`", last)
        if not names and last not in (ANY, "nothing"):
            raise ValueError(f"{first}: imports {last!r}; expected names, 'nothing' or {ANY!r}")
        imports = tuple(f"tfrl/{name.rstrip('/')}" for name in names)
        found.append(Room(tuple(paths), None if last == ANY else imports))
    return found


def room_of(file: str, known: list[Room]) -> int | None:
    """Index of the room that a file is in: the one with the longest path of it."""
    inside = [
        (len(path), index)
        for index, room in enumerate(known)
        for path in room.paths
        if file == path or file.startswith(f"{path}/")
    ]
    return max(inside)[1] if inside else None


def modules(root: pathlib.Path) -> dict[str, ast.Module]:
    """Every Python file of the package, parsed, by its path from the root."""
    paths = sorted((root / "tfrl").rglob("*.py"))
    return {str(path.relative_to(root)): ast.parse(path.read_text("utf-8")) for path in paths}


def empty(tree: ast.Module) -> bool:
    """The file of a folder without contents of its own."""
    return not tree.body


def imported(tree: ast.Module) -> list[tuple[str, str, bool]]:
    """(module, name in it or '', whether at the top level) of every import that is not for annotations alone."""
    found = []

    def walk(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, "", top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.extend((child.module or "", alias.name, top) for alias in child.names)
            walk(child, top and not isinstance(child, (ast.FunctionDef, ast.Lambda)))

    walk(tree, True)
    return found


def arrows(trees: dict[str, ast.Module]) -> list[Arrow]:
    """Every import of a file of the package by another."""
    found = []
    for source, tree in trees.items():
        for module, name, top in imported(tree):
            path = module.replace(".", "/")
            for target in (
                f"{path}/{name}.py",
                f"{path}.py",
                f"{path}/{name}/__init__.py",
                f"{path}/__init__.py",
            ):
                if target in trees:
                    found.append(Arrow(source, target, top))
                    break
            else:
                if path.split("/")[0] == "tfrl":
                    raise ValueError(f"{source}: imports {module}.{name}, which is not there")
    return found


def against(known: list[Room], found: list[Arrow]) -> list[str]:
    """Imports that the map does not allow, as text."""
    wrong = []
    for arrow in found:
        source, target = room_of(arrow.source, known), room_of(arrow.target, known)
        if source == target:
            continue
        allowed = known[source].imports
        named = allowed is None or any(
            arrow.target == f"{path}.py"
            or arrow.target.startswith(f"{path}/")
            or arrow.target == path
            for path in allowed
        )
        if target > source or not named:
            wrong.append(f"{arrow.source} imports {arrow.target}")
    return wrong


def unused(known: list[Room], found: list[Arrow]) -> list[str]:
    """Names in the map that nothing imports, as text."""
    return [
        f"{room.paths[0]} does not import {path}"
        for index, room in enumerate(known)
        for path in room.imports or ()
        if not any(
            room_of(arrow.source, known) == index
            and (arrow.target in (path, f"{path}.py") or arrow.target.startswith(f"{path}/"))
            for arrow in found
        )
    ]


class ImportsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trees = modules(ROOT)
        cls.rooms = rooms((ROOT / "WORKSPACE.md").read_text("utf-8"))
        cls.arrows = arrows(cls.trees)

    def test_every_file_is_in_a_room_and_every_room_is_there(self):
        self.assertGreater(len(self.rooms), 25)
        files = [file for file, tree in self.trees.items() if not empty(tree)]
        self.assertEmpty([file for file in files if room_of(file, self.rooms) is None])
        for room in self.rooms:
            for path in (*room.paths, *(room.imports or ())):
                there = (ROOT / path).exists() or (ROOT / f"{path}.py").exists()
                self.assertTrue(there, f"{path}, which the map names, is not there")

    def test_every_import_is_allowed(self):
        self.assertEmpty(against(self.rooms, self.arrows))

    def test_the_map_allows_nothing_that_is_not_used(self):
        self.assertEmpty(unused(self.rooms, self.arrows))

    @parameterized.parameters(
        ("tfrl/losses/value.py", "from tfrl.runtime import finish"),
        ("tfrl/algos/dqn.py", "def late():\n    import tfrl.replay.sampler"),
        ("tfrl/algos/parts/planted.py", "from tfrl.runtime.seeds import child"),
        ("tfrl/nn/torsos.py", "if True:\n    from tfrl.algos import dqn"),
        ("tfrl/job.py", "import tfrl.api"),
        ("tfrl/envs/make.py", "from tfrl.logs.metrics import METRICS"),
    )
    def test_a_planted_import_is_found(self, file, line):
        trees = {**self.trees, file: ast.parse(line)}
        found = against(self.rooms, [a for a in arrows(trees) if a.source == file])
        self.assertLen(found, 1)
        self.assertStartsWith(found[0], f"{file} imports tfrl/")

    def test_what_annotations_alone_need_is_no_import(self):
        line = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tfrl.api"
        trees = {**self.trees, "tfrl/job.py": ast.parse(line)}
        self.assertEmpty([a for a in arrows(trees) if a.source == "tfrl/job.py"])

    def test_an_algorithm_sees_neither_the_runtime_nor_the_replay(self):
        for room in self.rooms:
            if room.paths[0].startswith(("tfrl/algos", "tfrl/switches", "tfrl/losses", "tfrl/nn")):
                self.assertIsNotNone(room.imports)
                for path in room.imports:
                    self.assertNotRegex(path, "^tfrl/(runtime|replay|logs|api|cli)")

    def test_environments_stay_light(self):
        for file, tree in self.trees.items():
            if file.startswith(("tfrl/envs/", "tfrl/losses/__", "tfrl/settings", "tfrl/spaces")):
                names = {module.split(".")[0] for module, _, _ in imported(tree)}
                self.assertNoCommonElements(names, ("tensorflow", "keras", "reverb"), file)

    def heavy(self, trees):
        """Chains of imports from the commands to a heavy package, at the top level of modules."""
        targets = {}
        for arrow in arrows(trees):
            if arrow.top:
                targets.setdefault(arrow.source, []).append(arrow.target)
        waiting = [(file,) for file in trees if file.startswith(LIGHT)]
        seen, found = {chain[0] for chain in waiting}, []
        while waiting:
            chain = waiting.pop()
            names = [m.split(".")[0] for m, _, top in imported(trees[chain[-1]]) if top]
            found += [(*chain, name) for name in names if name in HEAVY]
            for target in targets.get(chain[-1], ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append((*chain, target))
        return found

    def test_nothing_that_help_needs_imports_a_heavy_package(self):
        self.assertEmpty(self.heavy(self.trees))
        tree = ast.parse("from tfrl.envs import make")
        self.assertNotEmpty(self.heavy({**self.trees, "tfrl/config/foreign.py": tree}))


class NamesTest(absltest.TestCase):
    def test_no_two_files_of_tests_have_one_name(self):
        """pytest imports each by its name alone, and would refuse the second."""
        names = [path.name for path in pathlib.Path(__file__).parent.rglob("*_test.py")]
        self.assertCountEqual(names, set(names))


if __name__ == "__main__":
    absltest.main()
