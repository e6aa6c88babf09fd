"""The rooms of DESIGN.md: who imports whom, read from the source, and what a command imports before its verb runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gradflow

PACKAGE = Path(gradflow.__file__).parent
RANKS = {
    0: {"errors", "arrays", "convolution", "pooling", "initialisers", "table"},
    1: {
        "hooks",
        "normalisations",
        "layers",
        "sources",
        "data",
        "optim",
        "rows",
        "drawing",
        "plot",
        "charts",
        "verdict",
    },
    2: {
        "measure",
        "nets",
        "nets.residual",
        "nets.stack",
        "nets.mlp",
        "nets.cnn",
        "nets.alexnet",
        "nets.nin",
        "nets.vgg",
        "nets.googlenet",
    },
    3: {"runtime", "describe", "tabulate"},
    4: {"training", "checkpoint"},
    5: {"run"},
    6: {"sweep", "worker", "probe", "stopwatch"},
    7: {"experiment", "report", "live", "doctor"},
    8: {"arguments", "cli", "__main__"},
}
RANK = {room: rank for rank, rooms in RANKS.items() for room in rooms}
# Rooms of one rank that do meet, always in this direction.
NEIGHBOURS = {
    ("table", "errors"),
    ("convolution", "arrays"),
    ("pooling", "arrays"),
    ("pooling", "convolution"),
    ("initialisers", "errors"),
    ("data", "sources"),
    ("layers", "normalisations"),
    ("plot", "rows"),
    ("plot", "drawing"),
    ("charts", "drawing"),
    ("verdict", "rows"),
    ("nets", "nets.residual"),
    ("nets", "nets.nin"),
    ("nets", "nets.vgg"),
    ("nets", "nets.googlenet"),
    ("nets.residual", "nets.stack"),
    ("nets", "nets.mlp"),
    ("nets.mlp", "nets.stack"),
    ("nets", "nets.cnn"),
    ("nets", "nets.alexnet"),
    ("tabulate", "describe"),
    ("report", "experiment"),
    ("live", "report"),
    ("cli", "arguments"),
    ("__main__", "cli"),
}
NEVER = {
    "table": {"jax", "flax", "optax", "orbax"},
    "rows": {"jax", "flax", "optax", "orbax"},
    "drawing": {"jax", "flax", "optax", "orbax"},
    "plot": {"jax", "flax", "optax", "orbax"},
    "charts": {"jax", "flax", "optax", "orbax"},
    "verdict": {"jax", "flax", "optax", "orbax", "matplotlib"},
    "measure": {"flax", "pathlib", "os", "time", "pandas", "pyarrow"},
    "nets": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.residual": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.mlp": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.cnn": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.alexnet": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.nin": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.vgg": {"optax", "pandas", "pyarrow", "matplotlib"},
    "nets.googlenet": {"optax", "pandas", "pyarrow", "matplotlib"},
    "hooks": {"flax", "optax", "pathlib", "os"},
    "training": {"pathlib", "matplotlib", "pandas"},
    "run": {"matplotlib"},
}


def rooms() -> dict[str, Path]:
    """Every file of the package by the name of its module, without `gradflow.`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and parts[0] != "experiments":  # inside a wheel the experiments lie in the package's folder
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, also where only the type checker looks."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                inside = node.module == "gradflow" or module.removeprefix("gradflow.") in RANK
                found.add(module if inside else node.module)
    return found


EDGES = {
    (name, module.removeprefix("gradflow."))
    for name, path in rooms().items()
    for module in imports(path)
    if module.startswith("gradflow.")
}


def test_every_file_has_a_rank_and_every_rank_a_file():
    assert set(rooms()) == set(RANK)


@pytest.mark.parametrize(("room", "other"), sorted(EDGES))
def test_a_file_imports_only_from_lower_ranks(room, other):
    assert other in RANK, f"{room} imports {other}, which is no room"
    assert RANK[other] < RANK[room] or (room, other) in NEIGHBOURS


def test_the_list_of_neighbours_is_not_longer_than_needed():
    assert {edge for edge in NEIGHBOURS if RANK[edge[0]] == RANK[edge[1]]} == NEIGHBOURS
    assert NEIGHBOURS <= EDGES


@pytest.mark.parametrize("room", sorted(NEVER))
def test_what_a_room_never_meets(room):
    met = {module.split(".")[0] for module in imports(rooms()[room])}
    assert met  # the parser has seen something
    assert not met & NEVER[room]


def test_gradflow_never_imports_experiments():
    assert not {room for room, path in rooms().items() for name in imports(path) if name.split(".")[0] == "experiments"}


@pytest.mark.parametrize("path", sorted((PACKAGE.parent / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_experiments_use_public_names_only(path):
    tree = ast.parse(path.read_text())
    assert {module for module in imports(path) if module.split(".")[0] == "gradflow"} == {"gradflow"}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "gf"}
    assert used
    assert used <= set(gradflow.__all__)


def test_the_package_and_its_help_import_nothing_heavy():
    """`import gradflow` and `gradflow --help` shall answer at once: the heavy libraries wait for a verb."""
    script = """
import sys, gradflow, gradflow.cli
sys.argv = ["gradflow", "--help"]
try:
    gradflow.cli.main()
except SystemExit as left:
    assert left.code == 0, left.code
heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "pandas", "pyarrow", "matplotlib", "PIL"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "sweep" in done.stdout


def test_a_public_name_is_what_its_room_calls_it():
    for name in gradflow.__all__:
        assert getattr(gradflow, name) is not None
    assert set(gradflow.__all__) == {*gradflow._HOME, *gradflow._ROOMS}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gradflow.nonsense  # noqa: B018
