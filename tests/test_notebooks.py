"""What a notebook shows: executed in a kernel, where the main process is no script, and looked at output by output."""

import asyncio
import base64
import io
import re
import warnings
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that only these tests need
    from nbclient import NotebookClient


def execute(folder: Path, *cells: str) -> list[list[Any]]:
    """The outputs of each cell of a notebook, executed in `folder`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        asyncio.run(client.async_execute())
    return [cell.outputs for cell in notebook.cells]


def kinds(outputs: list[Any]) -> set[str]:
    """The mime types of what a cell shows; `stream` for what it prints."""
    return {kind for one in outputs for kind in one.get("data", {"stream": 0})}


def test_a_notebook_shows_runs_tables_figures_and_sweeps_by_themselves(tmp_path):
    start, run, training, figure, sweep, net, data, wrong = execute(
        tmp_path,
        "import gradflow as gf",
        "run = gf.Run(net='mlp', depth=2, width=4, batch=16, steps=3)\nrun",
        "readings = [*gf.train(run, progress=True)]\nreadings[-1]",
        "import matplotlib.pyplot as plt\nplt.close(plt.figure())\n"  # from here on IPython knows figures of its own
        "gf.plot.gradient_curves(readings)",
        "gf.run_sweep(net='mlp', depth=2, width=4, batch=16, steps=3, workers=1)",
        "gf.describe('mlp', depth=2)",
        "gf.load_data('digits')",
        "try:\n    gf.run_sweep(net='mlp', depht=3)\nexcept gf.BadInput as error:\n    print(error)",
    )
    assert start == []
    for shown in (run, sweep, net, data):
        assert kinds(shown) == {"text/plain", "text/html"}, shown
        assert len(shown) == 1  # and nothing is printed
        assert len(shown[0].data["text/plain"]) < 240
    progress, last = training
    assert kinds(training) == {"text/plain", "text/html"}
    assert 'value="3" max="3"' in progress.data["text/html"]
    assert "step 3 of 3" in progress.data["text/plain"]
    assert last.data["text/plain"].startswith("<Reading of step 3: loss ")
    assert kinds(figure) == {"image/png", "text/plain"}
    with Image.open(io.BytesIO(base64.b64decode(figure[-1].data["image/png"]))) as image:
        assert image.mode == "RGB"  # on paper of its own, also where matplotlib's backend would show it
    assert "1 run; figures gradient_norm, " in sweep[0].data["text/plain"]
    assert (tmp_path / "results" / "sweep" / "gradient_norm.svg").is_file()
    assert "did you mean 'depth'?" in wrong[0].text
    assert len(wrong[0].text.splitlines()) == 1


LOOP = """
optimiser = optax.sgd(0.1)
@jax.jit
def step(params, moments):
    _, gradients, reading = gf.value_and_grad(loss, watched)(params, x)
    updates, moments = optimiser.update(gradients, moments)
    return optax.apply_updates(params, updates), moments, reading
moments = optimiser.init(params)
with gf.record("results/" + name, settings={"net": name, "depth": 3}) as log:
    for number in (1, 2, 3):
        params, moments, reading = step(params, moments)
        log(number, reading)
reading"""


def test_models_of_a_users_own_are_watched_trained_recorded_and_drawn(tmp_path):
    start, *shown = execute(
        tmp_path,
        "import jax, jax.numpy as jnp, optax, gradflow as gf\nfrom flax import linen, nnx\nx = jnp.ones((4, 8))",
        "name = 'nnx'\nmodel = nnx.Sequential(*[nnx.Linear(8, 8, rngs=nnx.Rngs(i)) for i in range(3)])\n"
        "graph, params = nnx.split(model)\nwatched = gf.watch(model)\n"
        "loss = lambda params, x: jnp.mean((nnx.merge(graph, params)(x) - 1) ** 2)",
        LOOP,
        "gf.plot_gradient_flow(model, x, lambda model, x: jnp.mean((model(x) - 1) ** 2))",
        "name = 'linen'\nmodel = linen.Sequential([linen.Dense(8), jnp.tanh, linen.Dense(8)])\n"
        "params = model.init(jax.random.key(0), x)\nwatched = gf.watch(model)\n"
        "loss = lambda params, x: jnp.mean((model.apply(params, x) - 1) ** 2)",
        LOOP,
        "gf.plot_gradient_flow(watched, x, loss, params=params)",
        "gf.plot.gradient_curves('results/nnx')",
    )
    assert start == []
    defined, tables, pictures = (shown[0], shown[3]), (shown[1], shown[4]), (shown[2], shown[5], shown[6])
    assert all(outputs == [] for outputs in defined)
    assert all(kinds(outputs) == {"text/plain", "text/html"} for outputs in tables)
    assert all("layers/2" in "".join(one.data["text/html"] for one in outputs) for outputs in tables[:1])
    assert all(kinds(outputs) == {"text/plain", "image/png"} for outputs in pictures)


def test_the_cells_of_the_documentation_run_and_show_what_it_says(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "notebooks.md").read_text()
    blocks = re.findall(r"```python\n(.+?)```", page, re.S)
    lines = [line for block in blocks for line in block.splitlines() if line]
    shown = dict(zip(lines, execute(tmp_path, *lines), strict=True))
    assert len(shown) == 12
    for line, outputs in shown.items():
        wanted = {"image/png"} if "figures[" in line or "gf.plot" in line else {"text/html"}
        if not re.match(r"\w+ = |import ", line):
            assert kinds(outputs) == wanted | {"text/plain"}, line
    progress = shown[next(line for line in shown if "run_experiment" in line)]
    assert "[1/" in "".join(one.get("data", {}).get("text/plain", one.get("text", "")) for one in progress)
    assert (tmp_path / "results" / "smoke" / "spatial" / "README.md").is_file()
