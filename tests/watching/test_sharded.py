"""Eight devices, and the coming defaults of Flax: the readings are those of one device and today's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def start(devices, **environment):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path} | environment
    command = [sys.executable, "-W", "error", str(HERE / "sharded.py")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_sharded_batch_and_parameters_read_the_same_as_one_device_under_the_coming_defaults_of_flax():
    processes = [start(8), start(1, NNX_GRAPH_MODE="false", NNX_GRAPH_UPDATES="false")]
    eight, one = (json.loads(process.communicate(timeout=500)[0]) for process in processes)
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["sharded"] == 0
    assert eight["sharded"] > 10
    assert eight["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert eight["values"].keys() == one["values"].keys()
    for quantity, values in one["values"].items():
        assert eight["values"][quantity] == pytest.approx(values, rel=2e-4, abs=2e-6), quantity
