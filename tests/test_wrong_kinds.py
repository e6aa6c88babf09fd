"""Arguments of another kind than they are annotated with, in a process of a user's, where nothing checks that."""

import subprocess
import sys

CALLS = """
import jax.numpy as jnp, numpy as np, optax
from flax import nnx
import gradflow as gf
X, model, loss = jnp.ones((4, 8)), nnx.Linear(8, 4, rngs=nnx.Rngs(0)), lambda model, x: jnp.mean(model(x) ** 2)
NET, RUN, IMAGES = gf.nets.build("mlp", classes=3, channels=1, depth=2), gf.Run(net="mlp"), jnp.ones((1, 8, 8, 1))
ODD = (None, 3, "x", [3], {}, object(), np.zeros(3))
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
    *(lambda odd=odd: next(iter(gf.train(odd))) for odd in ODD),
    *(lambda odd=odd: next(iter(gf.train(RUN, data=odd))) for odd in ODD[1:]),
    lambda: gf.train(RUN, progress=None),
    *(lambda odd=odd: gf.trained(odd) for odd in ODD),
    *(lambda odd=odd: gf.trained(RUN, watch=odd) for odd in ODD),
    *(lambda odd=odd: next(gf.train_seeds(odd, [0])) for odd in ODD),
    *(lambda odd=odd: next(gf.train_seeds(RUN, odd)) for odd in (*ODD[:3], *ODD[4:])),
    *(lambda odd=odd: gf.batch_of(odd) for odd in ODD),
    *(lambda odd=odd: gf.batch_of(RUN, odd) for odd in (*ODD[:1], *ODD[2:])),
    *(lambda odd=odd: gf.unroll(odd, X) for odd in ODD),
    *(lambda odd=odd: gf.unroll(NET, odd) for odd in ODD),
    *(lambda odd=odd: gf.influence(odd, X) for odd in ODD),
    *(lambda odd=odd: gf.influence(NET, odd) for odd in ODD),
    *(lambda odd=odd: gf.influence(NET, IMAGES, probes=odd) for odd in (0, -1, *ODD[2:])),
    *(lambda odd=odd: gf.influence(NET, IMAGES, seed=odd) for odd in (*ODD[:1], *ODD[2:])),
    *(lambda odd=odd: gf.gradient_paths(odd, IMAGES, [0]) for odd in ODD),
    *(lambda odd=odd: gf.gradient_paths(NET, odd, [0]) for odd in ODD),
    *(lambda odd=odd: gf.scalar_chain(odd) for odd in (*ODD[:3], *ODD[4:6], [], ["x"], [[1.0]], [10**400])),
    lambda: gf.scalar_chain([float("nan")]),
    *(lambda odd=odd: gf.read(odd, IMAGES, [0]) for odd in ODD),
    *(lambda odd=odd: gf.read(NET, IMAGES, odd) for odd in ODD),
    *(lambda odd=odd: gf.watch(odd) for odd in ODD),
    *(lambda odd=odd: gf.tap(odd, X) for odd in (*ODD[:2], *ODD[3:])),
    *(lambda odd=odd: gf.tap("a", odd) for odd in ODD[:6]),
    *(lambda odd=odd: gf.value_and_grad(odd, gf.watch(model)) for odd in ODD),
    *(lambda odd=odd: gf.value_and_grad(loss, odd) for odd in ODD),
    lambda: gf.value_and_grad(loss, gf.watch(model), has_aux=None),
    *(lambda odd=odd: gf.value_and_grad(loss, gf.watch(model), wrt=odd) for odd in (3, object(), {}, 2.5)),
    *(lambda odd=odd: gf.value_and_grad(loss, gf.watch(model))(odd, X) for odd in ODD),
    *(lambda odd=odd: gf.recorded_step(odd, optax.sgd(0.1), loss) for odd in ODD),
    *(lambda odd=odd: gf.recorded_step(model, optax.sgd(0.1), odd) for odd in ODD),
    *(lambda odd=odd: gf.recorded_step(model, optax.sgd(0.1), loss)(odd) for odd in ODD[:1] + ODD[2:]),
    *(lambda odd=odd: gf.plot_gradient_flow(odd, X, loss) for odd in ODD),
    *(lambda odd=odd: gf.plot_gradient_flow(model, X, odd) for odd in ODD),
    *(lambda odd=odd: gf.plot_gradient_flow(model, X, loss, title=odd) for odd in (*ODD[:2], *ODD[3:])),
    *(lambda odd=odd: gf.Stopwatch(odd) for odd in ODD[:4]),
    lambda: gf.Stopwatch({}, program=3),
    lambda: gf.Stopwatch({}, interpreter="nowhere"),
    lambda: gf.Stopwatch({}, interpreter="a\\0b"),
    lambda: gf.Stopwatch({"net": object()}),
    *(lambda odd=odd: gf.run_experiment(odd) for odd in ODD),
    *(lambda odd=odd: gf.run_experiment("arithmetic", odd) for odd in ODD),
    *(lambda odd=odd: gf.run_experiment("arithmetic", "smoke", results=odd) for odd in (*ODD[:2], *ODD[3:])),
    *(lambda odd=odd: gf.run_sweep(seeds=odd) for odd in (*ODD[:1], *ODD[2:])),
    *(lambda odd=odd: gf.run_sweep(settings=odd) for odd in (*ODD[1:4], *ODD[5:])),
    *(lambda odd=odd: gf.run_sweep(name=odd) for odd in (*ODD[:2], *ODD[3:])),
    *(lambda odd=odd: gf.record(odd).__enter__() for odd in (*ODD[:2], *ODD[3:])),
    *(lambda odd=odd: gf.record("a\\0b", odd).__enter__() for odd in ODD),
    *(lambda odd=odd: gf.Run(net=odd) for odd in ODD),
    *(lambda odd=odd: gf.Run(data=odd) for odd in (*ODD[:2], *ODD[3:])),
    *(lambda odd=odd: gf.Run(net_settings=odd) for odd in ODD[:3] + ODD[5:]),
    *(lambda odd=odd: gf.describe(odd) for odd in ODD),
    *(lambda odd=odd: gf.describe("mlp", channels=odd) for odd in (*ODD[:1], *ODD[2:])),
    *(lambda odd=odd: gf.describe("mlp", classes=odd) for odd in ODD[2:]),
    *(lambda odd=odd: gf.load_data(odd) for odd in ODD),
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
