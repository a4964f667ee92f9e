"""The shape of the package: which way its imports point, what it exports, and what no file of it may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ungated

PACKAGE = Path(ungated.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

#: The rooms from the top down: a file imports from its own room and from rooms above it, never from below.
ROOMS = (
    ("ungated", "ungated.lab", "ungated.lab.errors"),  # the two __init__ files hold names and no code of their own
    ("ungated.pages", "ungated.dropout", "ungated.cells"),
    ("ungated.scan",),
    ("ungated.checks",),
    ("ungated.rnn",),
    ("ungated.stream",),
    ("ungated.layers",),
    ("ungated.sizing",),
    ("ungated.lab.files",),
    ("ungated.lab.data",),
    ("ungated.lab.tasks",),
    ("ungated.lab.training", "ungated.lab.recipes"),
    ("ungated.lab.bench", "ungated.lab.doctor"),
    ("ungated.lab.workers",),
    ("ungated.lab.studies",),
    ("ungated.lab.reports",),
    ("ungated.lab.compare", "ungated.lab.reproductions"),
    ("ungated.lab.cli", "ungated.lab.commands"),
    ("ungated.__main__",),
)

PUBLIC = {
    "CELLS",
    "Cell",
    "GRU",
    "GRUCell",
    "LSTM",
    "LSTMCell",
    "MogrifierLSTM",
    "MogrifierLSTMCell",
    "RHN",
    "RHNCell",
    "RNN",
    "RRU",
    "RRUCell",
    "Stream",
    "backend",
    "count_parameters",
    "size_for",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> int:
    """The place of the deepest room that holds the module."""
    found = [
        (len(room), place, room)
        for place, rooms in enumerate(ROOMS)
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    _, place, room = max(found)
    assert room == module or room not in ROOMS[0], f"{module} is in no room: give it a place in ROOMS"
    return place


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module of ours that a file imports, at its head or inside a function."""
    modules = {module_name(file) for file in FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports of ungated in full"
            both = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in both]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "ungated")


# The package itself is the one exception: its public names come from the rooms below it, on first use.
@pytest.mark.parametrize("path", FILES[1:], ids=module_name)
def test_imports_point_upward_only(path: Path) -> None:
    module = module_name(path)
    wrong = [f"{path.name}:{line} imports {name}" for line, name in imports_of(path) if room_of(name) > room_of(module)]
    assert not wrong, f"{module} may import only from rooms above it: {wrong}"


def test_public_names_are_these() -> None:
    assert set(ungated.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(ungated, name) is not None
        assert name in dir(ungated)
    with pytest.raises(AttributeError, match="GRUU"):
        _ = ungated.GRUU


#: Code from data: each of these runs, or may run, what a file says.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("torch", "load"),
    ("torch", "save"),
    ("pandas", "read_pickle"),
    ("os", "system"),
}
FORBIDDEN_METHODS = {"extractall"}


def forbidden_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            if module.split(".")[0] in FORBIDDEN_MODULES:
                yield module
            yield from (
                f"{module}.{alias.name}" for alias in node.names if (module, alias.name) in FORBIDDEN_ATTRIBUTES
            )
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_CALLS:
            yield node.id
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) in ("np.load", "numpy.load") and "allow_pickle=False" not in ast.unparse(node):
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute):
            if node.attr in FORBIDDEN_METHODS:
                yield node.attr
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in FORBIDDEN_ATTRIBUTES:
                yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_file_runs_code_from_data(path: Path) -> None:
    assert not list(forbidden_in(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f(x):\n    import pickle as p",
        "eval('1')",
        "run = exec",
        "torch.load(path)",
        "from torch import save",
        "archive.extractall(folder)",
        "np.load(file)",
        "numpy.load(file, allow_pickle=True)",
    ],
)
def test_the_check_for_code_from_data_can_fail(source: str) -> None:
    assert list(forbidden_in(ast.parse(source)))


PROBE = """
import sys
before = set(sys.modules)
import torch
with_torch = set(sys.modules)
import ungated
names = [getattr(ungated, name) for name in ungated.__all__]
new = {module.partition(".")[0] for module in set(sys.modules) - with_torch}
print(*sorted(new - set(sys.stdlib_module_names) - {"torch", "torchgen", "ungated"}))
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_core_needs_torch_and_nothing_else() -> None:
    assert python(PROBE) == ""


def test_nothing_of_the_lab_is_imported_with_the_core() -> None:
    probe = "import ungated, sys; ungated.RRU; print([m for m in sys.modules if m.startswith('ungated.lab')])"
    assert python(probe) == "[]"


def test_importing_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNGATED_CACHE", str(tmp_path / "cache"))
    probe = (
        "import sys, ungated; [getattr(ungated, name) for name in ungated.__all__]; ungated.RRU(2, 3, num_layers=2);"
        "print([m for m in sys.modules if m.startswith(('triton', 'torch._dynamo.', 'torch._inductor.'))])"
    )
    assert python(probe) == "[]"
    assert not (tmp_path / "cache").exists()
