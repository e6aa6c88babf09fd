"""What all tests share: shapes are checked at run time, and compiling is cheap.

Tests compile much and compute little, so XLA compiles fast instead of well: without LLVM's optimisation and expensive
passes, in one piece, and with its older emitter of fused loops, which takes a third of the newer one's time.
`XLA_FLAGS=` compiles as a user does.
"""

import os

from jaxtyping import install_import_hook

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false",
)
WINGS = ("hooks", "reductions", "data", "measure", "nets", "training")
install_import_hook([f"gradflow.{wing}" for wing in WINGS], "beartype.beartype")
