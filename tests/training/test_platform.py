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
