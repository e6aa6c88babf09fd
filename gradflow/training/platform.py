"""What the platform needs: compile options, devices, the mesh, and the environment of a run's own process."""

import contextlib
import ctypes
import functools
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradflow.errors import BadInput
from gradflow.nets.layers.atoms import TOWER

# XLA's CPU compiler has a faster library for convolutions and products, which it does not use unless asked: a factor
# of 2 on a ResNet step. The names are those of the compile option; jaxlib refuses an option that it does not know.
_YNNPACK = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("REDUCE", "DOT", "ELTWISE")
    )
}
# Each step maps and faults in its temporary memory; huge pages make that cheap. glibc reads this when a process
# starts.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@functools.cache
def compile_options() -> dict[str, str]:
    """The options for `jax.jit` on this platform: the fast CPU library where jaxlib has it, nothing elsewhere."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=_YNNPACK)(0).block_until_ready()
    except Exception:  # whatever a jaxlib without the option raises: the option is only there to be faster
        return {}
    return dict(_YNNPACK)


def library_off() -> str:
    """Why `compile_options` asks for no fast CPU library; empty where it does."""
    if jax.default_backend() != "cpu":
        return f"not for this platform, {jax.default_backend()}"
    return "" if compile_options() else "this jaxlib refuses it"


def jit(function: Callable, **options: Any) -> Any:
    """`jax.jit` with this platform's compile options."""
    return jax.jit(function, compiler_options=compile_options() or None, **options)


def jit_once(function: Callable) -> Any:
    """`jax.jit` for what runs once: on a CPU compiled in a third of the time, to code that is not fast."""
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=quick)


def trim_memory() -> None:
    """Gives the memory that compiling took and freed back to the system, where the C library would keep it (glibc):
    250 MB after a recorded step of 56 layers.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def child_environment() -> dict[str, str]:
    """The environment for a run's own process: that of this one, and what must be there before a process starts."""
    return {**HUGE_PAGES, **os.environ} if platform.system() == "Linux" else dict(os.environ)


def share_of_accelerators(worker: int, workers: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What one of several workers must find in its environment so that it claims its own share of the GPUs alone.

    Nothing where there is one worker or no GPU. Where workers outnumber GPUs, some share one.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    present = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    devices = sorted(present, key=int) if given is None else [name for name in given.split(",") if name]
    if workers == 1 or not devices:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[worker::workers]) or devices[worker % len(devices)]}


def huge_pages_off(environment: Mapping[str, str]) -> str:
    """Why a process that starts on this machine in this environment has no huge pages; empty where it has."""
    kernel = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    tunables = environment.get("GLIBC_TUNABLES", "")
    return why_no_huge_pages(
        platform.system(), platform.libc_ver(), kernel.read_text() if kernel.exists() else "", tunables
    )


def why_no_huge_pages(system: str, libc: tuple[str, str], kernel: str, tunables: str) -> str:
    """The same for any machine: name and version of its C library, the kernel's choice as `always [madvise] never`."""
    if system != "Linux":
        return f"only on Linux, this is {system}"
    if "[always]" in kernel:  # without being asked
        return ""
    if "[madvise]" not in kernel:
        return "this kernel's transparent_hugepage is " + ("never" if "[never]" in kernel else "missing")
    name, version = libc
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return f"needs glibc 2.35 or later, this is {' '.join(libc).strip() or 'another C library'}"
    asked = HUGE_PAGES["GLIBC_TUNABLES"]  # a setting of the user's own replaces ours
    return "" if asked in tunables.split(":") else f"GLIBC_TUNABLES is set already, without {asked}"


def batch_mesh() -> Mesh:
    """All devices of all hosts along one axis, `batch`."""
    return Mesh(np.array(jax.devices()), ("batch",))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """A copy of `tree` on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of an array whose first axis, or that of this number, is the batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "batch"))


def tower_mesh(count: int = 2) -> Mesh:
    """The first `count` devices along one axis, `tower`: the groups of a net's convolutions, one a device.

    Used as `jax.set_mesh(tower_mesh())` around the step, with parameters placed by `shard_towers` (Krizhevsky 2012,
    section 3.2). Raises `BadInput` where there are fewer devices.
    """
    devices = jax.devices()
    if len(devices) < count:
        raise BadInput(f"{count} towers need {count} devices: there are {len(devices)}")
    return Mesh(np.array(devices[:count]), (TOWER,))


def shard_towers(mesh: Mesh, tree: Any) -> Any:
    """A copy of parameters in which every device has the output channels of its tower: of kernels, biases and norms.

    All of these have their output channels last. An array whose channels cannot be shared out evenly (a classifier of
    an odd number of classes) is on every device, as is what is no float (keys of dropout).
    """

    def place(array):
        shared = array.ndim and array.shape[-1] % mesh.size == 0 and jnp.issubdtype(array.dtype, jnp.floating)
        axes = (*(None,) * (array.ndim - 1), TOWER) if shared else ()
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(place, tree)


def cores() -> int:
    """The number of cores that this process may use: part of what fixes a result to the last bit.

    At most what a container's quota of processor time amounts to, rounded up.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, cpu_quota() or count)


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The cores that the control groups of this process allow, at least 1; None where they set no limit.

    Linux, cgroup-v2.rst (`cpu.max`) and sched-bwc.rst (version 1): of the process's own group and of all above it.
    """
    groups = "0::/\n1:cpu:/"
    with contextlib.suppress(OSError, ValueError):
        groups = own.read_text() or groups
    shares = [share for folder in _groups(root, groups) if (share := _share(folder)) is not None]
    return max(1, math.ceil(min(shares))) if shares else None


def _groups(root: Path, own: str) -> Iterator[Path]:
    """The folders of the control groups that share out processor time, `own` being what the kernel says of a process.

    In a container a group may be called by its name outside; its folder is then that at the top.
    """
    for line in own.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        mounts = [root / "cpu", root / controllers] if "cpu" in controllers.split(",") else []
        for mount in mounts if controllers else [root]:
            inside = mount / group.strip("/")
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(mount))


def _share(folder: Path) -> float | None:
    """The cores that one control group allows; None where it sets no limit."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (word for name in names for word in (folder / name).read_text().split())
            if quota.isdecimal() and period.isdecimal():
                return int(quota) / int(period)
    return None


def check_devices() -> None:
    """Raises `BadInput` where JAX has no device of the kind that the environment asks for."""
    try:
        jax.devices()
    except Exception as error:  # an AssertionError without a word, among others
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BadInput(f"JAX finds no device ({reason}): JAX_PLATFORMS is {wanted!r}; legal here is cpu") from error


def machine() -> dict[str, Any]:
    """What a result depends on beside its settings, for `config.json`: versions, devices, cores, switches."""
    return {
        "versions": _versions(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": cores(),
        "compile_options": compile_options(),
        "huge_pages": "glibc.malloc.hugetlb" in os.environ.get("GLIBC_TUNABLES", ""),
        "matmul_precision": jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
    }


@functools.cache  # files are read for it
def _versions() -> dict[str, str]:
    packages = ("gradflow", "jax", "jaxlib", "flax", "optax", "numpy")
    return {name: metadata.version(name) for name in packages} | {"python": platform.python_version()}


Precision = Literal["float32", "bfloat16"]


def dtype(precision: Precision) -> Any:
    """The dtype of the computation: None (that of the parameters) for `float32`, or bfloat16 for accelerators."""
    return {"float32": None, "bfloat16": jnp.bfloat16}[precision]
