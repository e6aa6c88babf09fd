"""Settings to an optax chain and its schedule."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradflow.errors import BadInput, choose

Schedule = Literal["step", "cosine", "constant"]
Optimiser = Literal["sgd", "nesterov", "adam", "adamw"]
SCHEDULES, OPTIMISERS = get_args(Schedule), get_args(Optimiser)


def schedule(name: str, learning_rate: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """The learning rate as a function of the step, from 0.

    `step`: divided by 10 after one half and three quarters of the steps (He 2015, section 4.2: 32k and 48k of 64k).
    `cosine`: down to zero at the end. `constant`. During the first `warmup` steps the rate is a tenth of
    `learning_rate`, and the rest of the schedule stays where it was. The paper does so for 110 layers, until the
    training error is below 80 %, which took about 400 steps; here their number is given.
    """
    choose("schedule", name, SCHEDULES)
    if not 0 <= warmup <= steps:
        raise BadInput(f"warm-up of {warmup} steps is not legal: choose 0 to {steps}, the steps of the run")
    if name == "step":
        main = optax.piecewise_constant_schedule(learning_rate, {max(1, steps // 2): 0.1, max(1, steps * 3 // 4): 0.1})
    elif name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, steps)
    else:
        main = optax.constant_schedule(learning_rate)
    if not warmup:
        return main
    slow = optax.constant_schedule(learning_rate / 10)
    return optax.join_schedules([slow, lambda step: main(step + warmup)], [warmup])


def rates(schedule: optax.Schedule, steps: int) -> Callable[[int], float]:
    """The learning rate of each step, counted from 1, worked out once."""
    worked_out = np.broadcast_to(np.asarray(schedule(jnp.arange(steps)), np.float32), steps).tolist()
    return lambda step: worked_out[step - 1]


def hyperparameters(momentum: float, weight_decay: float) -> dict[str, float]:
    """Those of an optimiser that are inputs of the compiled step: they lie in its state. One that is 0 is left out."""
    return {name: value for name, value in (("momentum", momentum), ("weight_decay", weight_decay)) if value}


def optimiser(
    name: str, rate: float | optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """`sgd` and `nesterov` with momentum; `adam` with `momentum` as its beta 1; both add the decay to the gradient, as
    the papers do (L2). `adamw` decouples it (Loshchilov and Hutter 2019). Its state holds the `hyperparameters`.
    """
    choose("optimiser", name, OPTIMISERS)

    def make(momentum: Any = 0.0, weight_decay: Any = None) -> optax.GradientTransformation:
        if name == "adamw":
            return optax.adamw(rate, b1=momentum, weight_decay=0.0 if weight_decay is None else weight_decay)
        if name == "adam":
            update = optax.adam(rate, b1=momentum)
        else:
            moving = momentum if isinstance(momentum, jax.Array) else None
            update = optax.sgd(rate, momentum=moving, nesterov=name == "nesterov")
        return update if weight_decay is None else optax.chain(optax.add_decayed_weights(weight_decay), update)

    return optax.inject_hyperparams(make)(**hyperparameters(momentum, weight_decay))
