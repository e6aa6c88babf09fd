"""What all tests share: shapes are checked at run time, and compiling is cheap.

Tests compile much and compute little, so XLA compiles fast instead of well: without LLVM's optimisation and expensive
passes, in one piece and, where jaxlib still has it, with the older emitter of fused loops, which takes a third of the
time. `XLA_FLAGS=` compiles as a user does.
"""

import gc
import os
import shutil
import tempfile
from importlib import metadata

import pytest
from jaxtyping import install_import_hook

FLAGS = ["backend_optimization_level=0", "llvm_disable_expensive_passes=true", "cpu_parallel_codegen_split_count=1"]
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 12):  # later ones refuse it: it is gone there
    FLAGS.append("cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{flag}" for flag in FLAGS))
# One cache of compiled programs for all commands and test processes of this session, and none of the user's.
OWN_CACHE = "GRADFLOW_CACHE_DIR" not in os.environ
if OWN_CACHE:
    os.environ["GRADFLOW_CACHE_DIR"] = tempfile.mkdtemp(prefix="gradflow-tests-")
WINGS = ("measuring", "data", "nets", "training", "analyses", "watching")
install_import_hook([f"gradflow.{wing}" for wing in WINGS], "beartype.beartype")

# Each takes two seconds or more on one core, most of them five, and shows on a larger scale, or for a coming version,
# what a faster test beside it shows. They carry the marker `slow`: `.ci/run` runs them, the README's command
# does not.
SLOW = (
    # The smoke runs of all experiments but one: `spatial` goes the same way through runs, verdict and figures.
    *(
        f"experiments/test_experiments.py::{test}[{name}]"
        for test in (
            "test_a_smoke_run_ends_in_verdict_report_and_figures",
            "test_verdict_and_figures_are_functions_of_the_table_alone",
            "test_plot_redraws_the_same_bytes",
        )
        for name in (
            "depth_sweep",
            "degradation",
            "border",
            "arithmetic",
            "inception",
            "lineage",
            "alexnet_ingredients",
            "design_rules",
            "vgg_depth",
            "nin_head",
            "overhead",
            "identity_path",
            "planted_faults",
            "regimes",
            "unrolling",
        )
    ),
    *(  # of the smoke runs of depth_sweep and degradation
        f"experiments/test_experiments.py::{test}"
        for test in (
            "test_the_table_holds_twins_and_seeds",
            "test_runs_that_are_missing_leave_a_verdict_open",
            "test_a_diverged_run_is_an_outcome",
        )
    ),
    "claims/test_diagnosis.py::test_every_committed_table_is_answered",
    "test_readme.py::test_every_number_of_a_verdict_is_printed_by_the_command_beside_it",
    "test_log.py::test_every_measured_number_beside_a_judge_command_is_printed_by_it",
    "experiments/test_experiments.py::test_a_depth_sweep_of_another_activation_is_judged_by_its_law",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[alexnet]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[plain]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[residual, pre-activation, group norm]",
    "analyses/test_gradient_paths.py::test_the_two_terms_add_up_to_the_gradient_that_a_training_step_records[settings0]",
    "analyses/test_gradient_paths.py::test_the_two_terms_add_up_to_the_gradient_that_a_training_step_records[settings2]",
    "analyses/test_gradient_paths.py::test_after_training_they_add_up_as_well",
    "analyses/test_unrolling.py::test_exact_influence_is_that_of_whole_jacobians[residual, batch norm, projections]",
    "analyses/test_unrolling.py::test_the_net_after_training_is_that_of_its_readings",
    "test_readme.py::test_the_diagnoses_of_the_readme_are_printed_by_the_command_beside_them",
    "data/test_few.py::test_a_data_set_of_one_class_or_one_image_is_a_run[one class]",
    "runs/test_resume.py::test_one_killed_worker_costs_its_own_run_only",
    "runs/test_resume.py::test_two_commands_on_one_folder_write_each_run_once",
    "runs/test_resume.py::test_stopped_again_and_again_by_signals",
    "runs/test_resume.py::test_a_broken_checkpoint_does_not_stop_a_resume",
    "runs/test_resume.py::test_a_full_disk_is_one_line_and_loses_nothing",
    "runs/test_resume.py::test_a_record_of_another_machine_is_begun_anew",
    "runs/test_store.py::test_a_run_whose_checkpoints_are_a_link_is_refused_by_the_command",
    "commands/test_compile_cache.py::test_a_damaged_program_is_compiled_again",
    "commands/test_surroundings.py::test_what_is_written_is_utf8_in_any_locale",
    "commands/test_processes.py::test_a_sweep_whose_streams_are_closed_or_full_is_published",
    "commands/test_processes.py::test_a_signal_at_any_moment_of_the_start_is_one_line_and_exit_code_130",
    "commands/test_processes.py::test_what_lies_in_the_current_directory_is_not_imported",
    "commands/test_processes.py::test_a_users_net_that_prints_and_reads_does_not_disturb_its_worker",
    "runs/test_store.py::test_two_commands_that_publish_one_folder_leave_the_tables_of_one_of_them",
    "nets/test_alexnet.py::test_one_step_of_the_net_of_the_paper_in_its_own_size",
    "test_hooks.py::test_a_batch_on_eight_devices_reads_what_it_reads_on_one",
    "test_readme.py::test_the_own_net_of_the_readme_is_swept_by_the_command_beside_it",
    "nets/test_stack.py::test_scanned_and_unrolled_units_agree[batch-",  # a perceptron without is the fast one
    "nets/test_stack.py::test_scanned_and_unrolled_units_agree[none-plain]",
    "nets/test_stack.py::test_scanned_and_unrolled_units_agree[none-residual]",
    "nets/test_nets.py::test_the_net_of_1202_layers_has_the_published_number_of_parameters",
    "nets/test_nets.py::test_nets_build_train_and_read_the_same_under_the_coming_defaults_of_flax",
    "nets/test_googlenet.py::test_gradients_are_those_of_a_net_by_hand_with_three_tenths_of_each_auxiliary_loss",
    "nets/test_googlenet.py::test_thirty_steps_learn_a_batch_of_digits",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[googlenet]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[residual]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[residual, joined]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[residual that pools]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[nin]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[vgg]",
    "nets/test_own_net.py::test_it_is_swept_plotted_and_not_run_twice",
    "runs/test_run.py::test_a_run_whose_units_are_joined_goes_on_from_a_checkpoint_that_has_them_one_by_one",
    "experiments/test_overhead.py::test_the_first_readings_of_the_pytorch_twin_are_those_of_our_nets",
    "commands/test_bad_input.py::test_a_broken_record_is_one_line_with_the_way_out[status.json]",
    "test_docs.py::test_the_code_of_a_page_runs",
    "watching/test_sharded.py::",
    "watching/test_own_loop.py::test_a_linen_model_is_trained_recorded_and_drawn",
    "watching/test_public_models.py::",
    "watching/test_names.py::test_an_ensemble_that_is_the_whole_model_has_a_number_in_front",
    "test_readme.py::test_from_the_install_line_to_the_picture_of_a_model_of_ones_own_in_ten_lines",
    "test_notebooks.py::test_models_of_a_users_own_are_watched_trained_recorded_and_drawn",
    "watching/test_equinox.py::test_names_and_numbers_are_those_of_the_same_net_in_nnx[checkpoint]",
    "watching/test_equinox.py::test_names_and_numbers_are_those_of_the_same_net_in_nnx[jit]",
    "watching/test_transforms.py::test_examples_under_vmap_are_one_point",
    "commands/test_stopwatch.py::test_a_transformer_of_a_users_own_is_timed_watched_and_not[False]",
    "commands/test_doctor.py::test_the_verb_tells_the_state_of_every_switch",
    "reports/test_from_python.py::test_a_sweep_from_python_is_that_of_the_command_and_not_run_twice",
    "reports/test_from_python.py::test_where_every_run_fails_that_is_said_in_one_line",
    "test_notebooks.py::test_the_cells_of_the_documentation_run_and_show_what_it_says",
    "test_notebooks.py::test_a_notebook_shows_runs_tables_figures_and_sweeps_by_themselves",
    "commands/test_compile_cache.py::test_what_one_command_compiles_the_next_finds",
    "runs/test_sweep.py::test_a_run_that_fails_is_one_line_and_the_others_are_complete",
    "nets/test_alexnet.py::test_two_towers_on_two_devices_are_one_net_on_one",
    "nets/test_calls.py::test_a_depth_sweep_of_nets_without_a_hook",
    "watching/test_equinox.py::test_names_and_numbers_are_those_of_the_same_net_in_nnx[scan]",
    "commands/test_compile_cache.py::test_nothing_is_kept_where_that_was_not_wanted",
    "commands/test_stopwatch.py::test_it_makes_as_many_steps_as_it_is_told[settings0]",
    "watching/test_equinox.py::test_parameters_that_the_loss_puts_together_read_the_same",
    "watching/test_equinox.py::test_running_statistics_are_handed_on_and_are_no_points",
    "watching/test_equinox.py::test_an_equinox_model_is_trained_recorded_and_drawn",
    "watching/test_transforms.py::test_layers_under_a_flax_transform_read_as_in_a_loop[remat]",
    "nets/test_padding.py::test_a_padded_net_reads_what_the_net_itself_does[plain-34-settings1]",
    "nets/test_padding.py::test_a_padded_net_reads_what_the_net_itself_does[residual-22-settings2]",
    "nets/test_padding.py::test_a_padded_net_reads_what_the_net_itself_does[residual-20-settings3]",
    "training/test_training.py::test_a_step_that_is_not_read_is_the_same_step_and_reads_no_large_activation[plain-8-0]",
    "training/test_training.py::test_seeds_in_one_vmapped_step_are_the_seeds_one_by_one[residual]",
    "analyses/test_unrolling.py::test_exact_influence_is_that_of_whole_jacobians[plain]",
    "claims/test_theory.py::test_a_wide_net_without_a_border_keeps_to_its_law[plain-he]",
    "claims/test_theory.py::test_a_wide_net_without_a_border_keeps_to_its_law[residual-he]",
    "test_hooks.py::test_every_reading_is_the_norm_of_the_vjp_cut_at_its_point[plain-float32-1e-05]",
    "nets/test_forward_mode.py::test_forwards_backwards_and_twice[cnn]",
    "nets/test_forward_mode.py::test_a_hessian_vector_product_is_that_with_the_whole_hessian",
    "nets/test_nets.py::test_cifar_nets_have_the_published_number_of_parameters[110]",
    "commands/test_describe.py::test_multiply_adds_of_the_cifar_family_are_the_papers[110]",
    "test_measure.py::test_a_net_with_batch_norm_trains_in_float64",
    "runs/test_run.py::test_runs_of_one_process_leave_nothing_behind",
    "runs/test_run.py::test_nets_of_one_structure_share_what_is_compiled_whatever_setting_decides_their_arrays",
    "nets/test_every_net.py::test_every_reading_is_the_norm_of_the_gradient_cut_at_its_point[alexnet, one",
)


# Files that take about ten seconds or more on one core, the longest first.
LONGEST = (
    "nets/test_every_net.py",
    "measuring/test_hooks.py",
    "watching/test_transforms.py",
    "training/test_training.py",
    "watching/test_own_loop.py",
    "nets/test_nets.py",
    "commands/test_describe.py",
    "commands/test_bad_input.py",
    "analyses/test_unrolling.py",
    "commands/test_compile_cache.py",
    "experiments/test_experiments.py",
    "nets/test_googlenet.py",
    "runs/test_resume.py",
    "runs/test_run.py",
    "nets/test_stack.py",
    "claims/test_theory.py",
    "claims/test_diagnosis.py",
    "runs/test_sweep.py",
    "test_notebooks.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist chooses for itself
def pytest_cmdline_main(config):
    """Several processes share the tests out file by file: what a file prepares or compiles for several, one does once.

    Those that take longest come first, so that no process is alone with one at the end: see `LONGEST`. Not by the
    number of tests, which says little of the time. Not the slow ones: half of them are in one file.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no" and config.option.markexpr != "slow":
        config.option.dist, config.option.loadscopereorder = "loadfile", False


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: it is not looked through again and again for what could be freed. Nor is
    what JAX keeps of every trace each time that 700 more objects have been made.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items):
    for item in items:
        if any(slow in item.nodeid for slow in SLOW):
            item.add_marker(pytest.mark.slow)
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0].removeprefix("tests/"), len(places)))


def pytest_unconfigure(config):
    if OWN_CACHE:
        shutil.rmtree(os.environ["GRADFLOW_CACHE_DIR"], ignore_errors=True)
