"""The process that makes steps when told to: what it says of itself, and what it says when it cannot."""

import sys

import jax
import jax.numpy as jnp
import pytest
from command_line import compile_once  # noqa: F401

from gradflow.commands.stopwatch import Stopwatch, count_kernels
from gradflow.errors import BadInput

SMALL = {"net": "residual", "depth": 8, "image": 8, "batch": 8, "width": 4}
DIGITS = SMALL | {"channels": 1, "padding": "circular", "normalisation": "none", "cores": 1}
ANSWER = """import json, os
print(json.dumps({"ready": os.environ["GRADFLOW_TRIED"], "home": "HOME" in os.environ}), flush=True)
input()
"""


@pytest.mark.parametrize("settings", [SMALL | {"record": True}, DIGITS | {"record": False}])
def test_it_makes_as_many_steps_as_it_is_told(settings):
    with Stopwatch(settings) as watch:
        assert watch.ready["ready"]
        for name in ("import", "build", "trace", "compile"):
            assert 0 < watch.ready[f"{name}_seconds"] < 300
        assert watch.ready["temporary_megabytes"] > 0
        assert watch.ready["kernels"] > 50
        for count, read in ((3, 1), (2, 10)):
            result = watch.steps(count, read)
            assert len(result["seconds"]) == count
            assert all(0 < seconds < 60 for seconds in result["seconds"])
            assert result["input_seconds"] > 0
    assert watch.process.poll() is not None


@pytest.mark.parametrize("record", [True, False])
def test_a_transformer_of_a_users_own_is_timed_watched_and_not(record):
    settings = {"net": "transformer", "depth": 1, "width": 8, "length": 4, "batch": 2, "cores": 1, "record": record}
    with Stopwatch(settings) as watch:
        assert watch.ready["kernels"] > 20
        assert len(watch.steps(3, 2)["seconds"]) == 3


def test_a_process_that_dies_is_said_in_one_line():
    with pytest.raises(BadInput, match="no depth 9") as raised:
        Stopwatch(SMALL | {"depth": 9, "record": True})
    assert "\n" not in str(raised.value)


def test_another_program_gets_the_variables_it_is_given(tmp_path):
    (tmp_path / "answer.py").write_text(ANSWER)
    variables = {"GRADFLOW_TRIED": "yes", "HOME": None}
    with Stopwatch({}, [str(tmp_path / "answer.py")], sys.executable, variables) as watch:
        assert watch.ready == {"ready": "yes", "home": False}


def looped(x):
    return jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(x @ x), x)


@pytest.mark.parametrize(
    ("function", "least", "most"),
    [
        (lambda x: x, 0, 1),  # at most a copy
        (lambda x: jnp.tanh(2 * x + 1).sum(), 1, 3),  # joined to a kernel or two
        (lambda x: jnp.sin(x @ x) @ x, 2, 6),
        (looped, 2, 12),  # what is in the loop counts, once
    ],
)
def test_a_kernel_is_what_is_executed_by_itself(function, least, most):
    program = jax.jit(function).lower(jnp.ones((30, 30))).compile().as_text() or ""
    assert least <= count_kernels(program) <= most


def test_what_is_counted_of_a_program_written_by_hand():
    program = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %b = f32[2]{0} sine(%a)
  ROOT %c = f32[2]{0} add(%a, %b)
}

%body (state: (s32[], f32[2])) -> (s32[], f32[2]) {
  %state = (s32[], f32[2]{0}) parameter(0)
  %x = f32[2]{0} get-tuple-element(%state), index=1
  %y = f32[2]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/while/body/add"}
  ROOT %both = (s32[], /*index=1*/f32[2]{0}) tuple(%x, %y)
}

%condition (state: (s32[], f32[2])) -> pred[] {
  %state = (s32[], f32[2]{0}) parameter(0)
  ROOT %less = pred[] compare(%state, %state), direction=LT
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %one = f32[2]{0} constant({1, 1})
  %both = (f32[2]{0}, f32[2]{0}) custom-call(%x), custom_call_target="library"
  %loop = (s32[], f32[2]{0}) while(%both), condition=%condition, body=%body
  ROOT %end = f32[2]{0} fusion(%x, %one), kind=kLoop, calls=%fused
}
"""
    assert count_kernels(program) == 4  # the call, the comparison, and the fusions of the loop and of the end
