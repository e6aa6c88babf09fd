"""Whether layers go back by rules that are written out, as the training step does, or as JAX derives them.

What is written out is faster, but goes backwards only: `jax.jvp` of it raises. What JAX derives can be differentiated
in every way: forwards, backwards, again, under `vmap`. Both give the same numbers, to rounding. So rules written out
are for who asks for them, `with fast_gradients(True):` around what is traced. JAX knows of this context: what was
compiled with the one is never taken for the other.
"""

import jax

fast_gradients = jax.make_user_context(False)
