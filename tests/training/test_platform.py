"""What a process may use: the quota of a container, read from files as the kernel writes them; and devices."""

import os
import subprocess
import sys

import pytest

from gradflow.training import platform

CASES = [
    ({"cpu.max": "max 100000\n"}, "0::/\n", None),
    ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
    ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),  # rounded up
    ({"cpu.max": "1000 100000\n"}, "0::/\n", 1),
    ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", 3),  # that of the group above
    ({"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", 1),
    ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/x\n", 4),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/x\n", None),
    # Version 1: the group's own folder and those above it; in a container perhaps only the one at the top.
    ({"cpu/a/b/cpu.cfs_quota_us": "200000", "cpu/a/b/cpu.cfs_period_us": "100000"}, "4:cpu:/a/b\n", 2),
    ({"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, "2:cpu,cpuacct:/a/b", 1),
    (
        {
            "cpu/cpu.cfs_quota_us": "800000",
            "cpu/cpu.cfs_period_us": "100000",
            "cpu/a/cpu.cfs_quota_us": "300000",
            "cpu/a/cpu.cfs_period_us": "100000",
            "cpu/other/cpu.cfs_quota_us": "100000",
            "cpu/other/cpu.cfs_period_us": "100000",
        },
        "9:name=systemd:/other\n4:memory:/other\n3:cpuset:/other\n2:cpu:/a\n0::/\n",
        3,
    ),
    ({"cpu/a/cpu.cfs_quota_us": "200000"}, "4:cpu:/a\n", None),
    ({"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "0"}, "4:cpu:/a\n", None),
    ({"cpu.max": "200000 100000"}, "no line of the kernel's\n::\n0::/\n", 2),
    ({"cpu.max": "200000 100000"}, "", 2),
    ({"cpu.max": "nonsense 0\n"}, "0::/\n", None),
    ({}, "0::/somewhere\n", None),
]


@pytest.mark.parametrize(("files", "own", "expected"), CASES)
def test_the_quota_of_a_container_is_seen(tmp_path, files, own, expected):
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (tmp_path / "own").write_text(own)
    assert platform.cpu_quota(root, tmp_path / "own") == expected


def test_a_platform_that_is_not_there_is_one_line():
    words = [sys.executable, "-m", "gradflow", "describe", "plain"]
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "JAX_PLATFORMS is 'cuda'" in done.stderr
