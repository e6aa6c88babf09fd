"""What all tests share: shapes are checked at run time, and compiling is cheap.

Tests compile much and compute little, so XLA compiles fast instead of well: without LLVM's optimisation and expensive
passes, in one piece and, where jaxlib still has it, with the older emitter of fused loops, which takes a third of the
time. `XLA_FLAGS=` compiles as a user does.
"""

import os
from importlib import metadata

from jaxtyping import install_import_hook

FLAGS = ["backend_optimization_level=0", "llvm_disable_expensive_passes=true", "cpu_parallel_codegen_split_count=1"]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (
    0,
    12,
):  # later ones refuse it: the old emitter is gone
    FLAGS.append("cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{flag}" for flag in FLAGS))
WINGS = ("hooks", "reductions", "data", "measure", "nets", "training")
install_import_hook([f"gradflow.{wing}" for wing in WINGS], "beartype.beartype")
