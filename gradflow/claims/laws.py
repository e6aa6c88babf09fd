"""The laws by which a gradient vanishes or explodes: how many decades each alone makes of a net with these symptoms."""

import math
from dataclasses import dataclass

from gradflow.claims.symptoms import AROUND_ZERO, State, Symptoms
from gradflow.claims.theory import gradient_law

SMALL, LARGE = "weights too small for their fan-in", "weights too large for their fan-in"
SATURATED, BORDER, BATCH = "saturated units", "the border of small maps", "batch norm at the start"
SUM = "the sum of the residual branches"


@dataclass(frozen=True)
class Cause:
    """A likely cause, what speaks for it and what would cure it; `decades` are those that it makes by its law."""

    name: str
    evidence: str
    cure: str
    decades: float = math.nan


def weights(seen: Symptoms, state: State) -> Cause | None:
    """Each layer multiplies the squared gradient by its gain times the mean squared slope of the activation.

    Level is a gain of 2 with ReLUs (He et al. 2015, arXiv:1502.01852, equation 14), 1 around 0 with tanh, 16 with
    sigmoid. A normalisation divides by its scale whatever the gain. Of a net whose layers are not known the activations
    tell: small weights lessen them on their way to the output as they do the gradient on its way back.
    """
    if not seen.chain or seen.setting("normalisation", "none") != "none":
        return None
    level = 1 / AROUND_ZERO.get(seen.setting("activation", "relu"), math.nan)
    if math.isfinite(state.gain) and math.isfinite(level):
        decades = -seen.depth * math.log10(state.gain / level) / 2
        told = f"variance times fan-in is {state.gain:.2g} by the norms of the weights, level is {level:g}"
    elif seen.geometry is None and math.isfinite(state.signal):
        decades, told = state.signal, "the activations change likewise on their way to the output"
    else:
        return None
    wanted = f"a variance of {level:g} / fan-in" if math.isfinite(level) else "other weights"
    cure = f"start from {wanted}, put a normalisation behind the layers, or give them an identity path"
    evidence = f"{told}: over {seen.depth} layers {_against(decades, state)}"
    return Cause(SMALL if decades > 0 else LARGE, evidence, cure, decades)


def saturation(seen: Symptoms, state: State) -> Cause | None:
    """Responses far from 0 meet a flatter tanh or sigmoid: the mean squared slope by their mean and deviation."""
    if not seen.chain or not 0 < state.slope < 1:
        return None
    decades = -seen.depth * math.log10(state.slope) / 2
    evidence = (
        f"the responses of the layers meet {state.slope:.2g} of the squared slope that there is around 0: "
        f"{_against(decades, state)}"
    )
    cure = "smaller weights or inputs, a normalisation before the activation, or ReLUs"
    return Cause(SATURATED, evidence, cure, decades)


def border(seen: Symptoms, state: State) -> Cause | None:
    """Windows that see zeros around the map, as the sides of all maps predict (`border_decades`)."""
    none = seen.setting("normalisation", "none") == "none"
    if not none or seen.geometry is None or not seen.chain or seen.setting("padding") != "zero":
        return None
    decades = seen.geometry.border()
    if not decades:
        return None
    sides = [layer.pixels for layer in seen.geometry.layers if layer.side > 1]
    evidence = f"zeros around maps of {sides[0]}x{sides[0]} down to {sides[-1]}x{sides[-1]}: {_against(decades, state)}"
    return Cause(BORDER, evidence, "circular padding, larger images, or fewer layers on the small maps", decades)


def batch_norm(seen: Symptoms, state: State) -> Cause | None:
    """Batch norm makes the gradient of a plain ReLU net grow at the start (Yang et al. 2019, arXiv:1902.08129).

    Of a residual net there is no law: what the branches add to the identity is read off.
    """
    if seen.setting("normalisation", "none") != "batch" or seen.setting("activation", "relu") != "relu":
        return None
    law = gradient_law("plain", normalisation="batch")
    if seen.chain and law is not None:
        decades = seen.depth * law
        told = f"by its law {_against(decades, state)}"
    elif state.mean < 0 and math.isfinite(state.branches):
        decades, told = max(state.branches, state.mean), _added(state)
    else:
        return None
    heals = f"; from step {seen.since} on it is level" if seen.end.regime == "level" and seen.since > 1 else ""
    cure = (
        "none where training heals it; otherwise an identity path, a small rate for the first steps, or no batch norm"
    )
    return Cause(BATCH, f"{told}{heals}", cure, decades)


def residual_sum(seen: Symptoms, state: State) -> Cause | None:
    """Without a normalisation each branch adds to what comes back through the identity, unit after unit."""
    if seen.setting("normalisation", "none") != "none" or not (state.mean < 0 and math.isfinite(state.branches)):
        return None
    decades = max(state.branches, state.mean)  # some of what they add is lost at the activations behind the sums
    cure = "a normalisation in the branches, smaller weights at their ends, or a smaller rate"
    return Cause(SUM, _added(state), cure, decades)


def _added(state: State) -> str:
    return f"the branches add {-state.branches:.1f} decades to what the identity brings, {state.mean:+.1f} are seen"


def _against(decades: float, state: State) -> str:
    """What a law makes, beside what is seen; + is a fall towards the input, - a growth."""
    return f"{decades:+.1f} decades are predicted, {state.mean:+.1f} are seen"


LAWS = (weights, saturation, border, batch_norm, residual_sum)
