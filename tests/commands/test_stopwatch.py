"""The process that makes steps when told to: what it says of itself, and what it says when it cannot."""

import pytest
from command_line import compile_once  # noqa: F401

from gradflow.commands.stopwatch import Stopwatch
from gradflow.errors import BadInput

SMALL = {"net": "residual", "depth": 8, "image": 8, "batch": 8, "width": 4}


@pytest.mark.parametrize("record", [True, False])
def test_it_makes_as_many_steps_as_it_is_told(record):
    with Stopwatch(SMALL | {"record": record}) as watch:
        assert watch.ready["ready"]
        for name in ("import", "build", "trace", "compile"):
            assert 0 < watch.ready[f"{name}_seconds"] < 300
        assert watch.ready["temporary_megabytes"] > 0
        for count, read in ((3, 1), (2, 10)):
            result = watch.steps(count, read)
            assert len(result["seconds"]) == count
            assert all(0 < seconds < 60 for seconds in result["seconds"])
            assert result["input_seconds"] > 0
    assert watch.process.poll() is not None


def test_a_process_that_dies_is_said_in_one_line():
    with pytest.raises(BadInput, match="no depth 9") as raised:
        Stopwatch(SMALL | {"depth": 9, "record": True})
    assert "\n" not in str(raised.value)
