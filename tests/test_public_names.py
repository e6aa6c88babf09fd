"""The public names are those of the stub; experiments use these alone; none is imported before it is used."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gradflow

PACKAGE = Path(gradflow.__file__).parent
EXPERIMENTS = sorted((PACKAGE.parent / "experiments").glob("*.py"))
STUB = {
    alias.asname or alias.name
    for node in ast.walk(ast.parse((PACKAGE / "__init__.pyi").read_text()))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def modules(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_dir_is_the_stub_and_every_name_is_there():
    assert set(dir(gradflow)) == set(getattr(gradflow, "__all__")) == STUB  # noqa: B009
    assert all(getattr(gradflow, name) is not None for name in STUB)
    with pytest.raises(AttributeError, match="nonsense"):
        gradflow.nonsense  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_dir_shows_no_module_that_was_imported_on_the_way():
    script = "import json, gradflow as gf\nfor name in dir(gf): getattr(gf, name)\nprint(json.dumps(dir(gf)))"
    assert set(json.loads(run(script))) == STUB


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_use_public_names_only(path):
    assert {module for module in modules(path) if module.split(".")[0] == "gradflow"} == {"gradflow"}
    tree = ast.parse(path.read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "gf"}
    assert used
    assert used <= STUB


def test_gradflow_never_imports_experiments():
    files = [path for path in PACKAGE.rglob("*.py") if "experiments" not in path.relative_to(PACKAGE).parts]
    assert len(files) > 50
    assert not [path for path in files for module in modules(path) if module.split(".")[0] == "experiments"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_the_package_and_its_help_import_nothing_heavy(arguments):
    """`import gradflow` and `gradflow --help` answer at once: the heavy libraries wait for a verb."""
    printed = run(f"""
import sys, gradflow
from gradflow.commands import cli
sys.argv = ["gradflow", *{arguments!r}]
try:
    cli.main()
except SystemExit as left:
    assert left.code == 0, left.code
heavy = {{"jax", "jaxlib", "flax", "optax", "orbax", "numpy", "pandas", "pyarrow", "matplotlib", "PIL", "scipy"}}
print("HEAVY", sorted(heavy & set(sys.modules)))
""")
    assert printed.splitlines()[-1] == "HEAVY []"
    assert ("sweep" in printed) == (arguments != ["--version"])
