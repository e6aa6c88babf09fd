"""Arguments of another kind than they are annotated with, in a process of a user's, where nothing checks that."""

import subprocess
import sys

CALLS = """
import jax.numpy as jnp, numpy as np, optax
from flax import nnx
import gradflow as gf
X, model, loss = jnp.ones((4, 8)), nnx.Linear(8, 4, rngs=nnx.Rngs(0)), lambda model, x: jnp.mean(model(x) ** 2)
images, labels = np.zeros((6, 4, 4, 3), np.uint8), np.arange(6) % 3
CASES = [
    lambda: gf.load_data("digits", image_size="x"),
    lambda: gf.load_data("digits", image_size=True),
    lambda: gf.load_data("digits", image_size=2.5),
    lambda: gf.load_data("digits", image_size=[4]),
    lambda: gf.load_data("digits", validation="x"),
    lambda: gf.load_data("digits", validation=2.5),
    lambda: gf.load_data("digits", validation=None),
    lambda: gf.load_data("digits", validation=2, seed=None),
    lambda: gf.load_data("digits", label=["label"]),
    lambda: gf.load_data(None),
    lambda: gf.load_data(3),
    lambda: gf.load_data(b"digits"),
    lambda: gf.load_data(["digits"]),
    lambda: gf.data.from_arrays(images, labels, classes=5),
    lambda: gf.nets.build("mlp", classes="x", channels=3),
    lambda: gf.nets.build("mlp", classes=2.5, channels=3),
    lambda: gf.nets.build("mlp", classes=3, channels=None),
    lambda: gf.nets.build("mlp", classes=3, channels=1, image="x"),
    lambda: gf.nets.build(3, classes=3, channels=1),
    lambda: gf.describe(3),
    lambda: gf.describe("mlp", image=2.5),
    lambda: gf.describe("mlp", dtype="x"),
    lambda: gf.watch(model, points=3),
    lambda: gf.watch(model, points=[3]),
    lambda: gf.watch(model, points=b"a"),
    lambda: gf.watch(model, residual=3),
    lambda: gf.recorded_step(model, optax.sgd, loss),
    lambda: gf.recorded_step(model, None, loss),
    lambda: gf.recorded_step(model, optax.sgd(0.1), loss)(object()),
    lambda: gf.read(model, object(), [0]),
    lambda: gf.diagnose(3),
]
for number, case in enumerate(CASES):
    try:
        print(number, "is legal:", case())
    except gf.BadInput as error:
        assert len(str(error).splitlines()) == 1, error
assert gf.load_data("digits", validation=np.int64(2), image_size=np.int32(4)).image_shape == (4, 4, 1)
"""


def test_what_is_of_another_kind_is_one_line():
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
