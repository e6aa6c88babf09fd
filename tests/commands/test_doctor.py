"""`gradflow doctor`: its reasons from faked machines, and what it says of this one against the kernel's own count."""

import os
import platform
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from command_line import call

from gradflow.commands import probe
from gradflow.training import platform as runtime

ON = runtime.HUGE_PAGES["GLIBC_TUNABLES"]
SWITCHES = ("fast CPU library", "huge pages", "pinning", "accelerator", "compile cache")


@pytest.mark.parametrize(
    ("system", "libc", "kernel", "tunables", "reason"),
    [
        ("Linux", ("glibc", "2.35"), "always [madvise] never", ON, ""),
        ("Linux", ("glibc", "2.36"), "always [madvise] never", f"glibc.malloc.check=1:{ON}", ""),
        ("Linux", ("glibc", "3.0"), "always [madvise] never", ON, ""),
        ("Linux", ("glibc", "2.31"), "[always] madvise never", "", ""),  # the kernel asks nobody
        ("Linux", ("glibc", "2.34"), "always [madvise] never", ON, "needs glibc 2.35 or later, this is glibc 2.34"),
        ("Linux", ("", ""), "always [madvise] never", ON, "needs glibc 2.35 or later, this is another C library"),
        ("Linux", ("glibc", "2.36"), "always madvise [never]", ON, "this kernel's transparent_hugepage is never"),
        ("Linux", ("glibc", "2.36"), "", ON, "this kernel's transparent_hugepage is missing"),
        ("Linux", ("glibc", "2.36"), "always [madvise] never", "glibc.malloc.check=1", f"without {ON}"),
        ("Darwin", ("", ""), "", "", "only on Linux, this is Darwin"),
    ],
)
def test_why_there_are_no_huge_pages(system, libc, kernel, tunables, reason):
    result = runtime.why_no_huge_pages(system, libc, kernel, tunables)
    assert result.endswith(reason)
    assert bool(result) == bool(reason)


@pytest.mark.skipif(platform.system() != "Linux", reason="asks the Linux kernel")
@pytest.mark.parametrize("tunables", [ON, ""])
def test_what_is_said_of_huge_pages_is_what_the_kernel_counts(tunables):
    script = "x = b'x' * (200 << 20); print(open('/proc/self/smaps_rollup').read())"
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    counted = re.search(r"AnonHugePages: +(\d+) kB", done.stdout)
    assert counted
    assert (int(counted[1]) > 100_000) == (not runtime.huge_pages_off({"GLIBC_TUNABLES": tunables}))


def test_an_option_that_jaxlib_does_not_know_is_refused(monkeypatch):
    unknown = {"xla_no_such_option": "1"}
    with pytest.raises(Exception, match="xla_no_such_option"):
        jax.jit(lambda x: x, compiler_options=unknown)(0)
    monkeypatch.setattr(runtime, "_YNNPACK", unknown)
    runtime.compile_options.cache_clear()
    try:
        assert probe.library() == "not active: this jaxlib refuses it"
    finally:
        runtime.compile_options.cache_clear()


def test_the_fast_library_is_for_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert probe.library() == "not active: not for this platform, tpu"


def test_the_probe_is_sound_and_needs_much_memory():
    images, kernels = probe.inputs()
    compiled = jax.jit(probe.step).lower(images, kernels).compile()
    memory = compiled.memory_analysis()
    assert memory
    assert memory.temp_size_in_bytes > 100e6
    gradients = compiled(images, kernels)
    assert len(gradients) == len(kernels)
    assert all(1e-7 < np.abs(gradient).mean() < 10 for gradient in gradients)  # no denormals, which would be slow


@pytest.mark.parametrize("broken", [{"JAX_PLATFORMS": "nonsense"}, {"PYTHONHOME": "/nonsense"}])
def test_a_probe_that_fails_says_so_in_one_line(monkeypatch, broken):
    for name, value in broken.items():
        monkeypatch.setenv(name, value)
    result = call("doctor")
    assert (result.code, result.err) == (0, "")
    for switch in ("devices", "fast CPU library", "accelerator"):
        assert re.search(rf"^{switch} +unknown: the probe.*[^:]$", result.out, re.M)
    assert len(result.out.splitlines()) == 13
    assert "Traceback" not in result.out


def test_medians_do_not_mind_the_first_turn_nor_an_outlier():
    slow, fast = iter([100.0, 3, 3, 99, 3, 3]), iter([0.001, 2, 2, 2, 98, 2])
    assert probe.ratio(lambda: next(slow), lambda: next(fast)) == 1.5


def test_the_verb_tells_the_state_of_every_switch():
    result = call("doctor")
    assert (result.code, result.err) == (0, "")
    for switch in SWITCHES:
        assert re.search(rf"^{switch} +(active|not active): ", result.out, re.M)
    assert jax.__version__ in result.out
    assert f"{runtime.cores()} usable" in result.out
    if jax.default_backend() == "cpu" and runtime.compile_options():
        assert re.search(r"^fast CPU library +active: .* \d+\.\d times", result.out, re.M)
    assert f"GLIBC_TUNABLES={ON} python" in result.out or runtime.huge_pages_off(runtime.child_environment())
