"""The smallest net that shows what the identity path does: a chain of units of one number each."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gradflow.errors import BadInput
from gradflow.kinds import checked


class ScalarChain(NamedTuple):
    """Units F(x) = a x, one after another from x = 1: plain, x <- F(x), is a product; residual, x <- x + F(x), a sum.

    All are without unit. As x is 1, `product` and `total` are also the gradients of the outputs by the input.
    """

    product: float  # a_1 a_2 ... a_n
    terms: tuple[float, ...]  # 1, F(x_1), ..., F(x_n): what the identity hands on and what each unit adds to it
    total: float  # their sum, which is (1 + a_1) (1 + a_2) ... (1 + a_n)
    product_gradient: tuple[float, ...]  # d product / d a_i: all other factors, multiplied
    total_gradient: tuple[float, ...]  # d total / d a_i: the same of 1 + a_j, so about 1 where factors are small


@checked
def scalar_chain(factors: Sequence[float]) -> ScalarChain:
    """The chain of the factors a_1 to a_n, in closed form (He et al. 2016, arXiv:1603.05027, equations 4 and 5).

    For 0.0001 and 0.01 the product is 0.000001, the sum 1 + 0.0001 + 0.010001: the last term is 0.01 times all that
    came before it, the first unit's part included. Raises `BadInput` for no factor, or one that is not finite.
    """
    factors = [float(factor) for factor in factors]
    if not factors or not all(map(math.isfinite, factors)):
        raise BadInput(f"factors {factors} are not legal: give one or more finite numbers")
    terms = [1.0]
    for factor in factors:
        terms.append(factor * math.fsum(terms))
    others = [factors[:i] + factors[i + 1 :] for i in range(len(factors))]
    return ScalarChain(
        math.prod(factors),
        tuple(terms),
        math.fsum(terms),
        tuple(map(math.prod, others)),
        tuple(math.prod(1 + other for other in rest) for rest in others),
    )
