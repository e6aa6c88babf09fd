"""What all tests share: shapes are checked at run time, and compiling is cheap.

Tests compile much and compute little, so LLVM's optimisation is off: a quarter of the time. `XLA_FLAGS=` turns it on.
"""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
WINGS = ("hooks", "reductions", "data", "measure", "nets", "training")
install_import_hook([f"gradflow.{wing}" for wing in WINGS], "beartype.beartype")
