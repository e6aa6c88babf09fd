"""gradflow: watch gradients vanish, explode and survive in plain and residual nets of any depth.

The public names are those of the stub beside this file. Each is imported when it is first used, so that
`import gradflow` and `gradflow --help` do not wait for JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
