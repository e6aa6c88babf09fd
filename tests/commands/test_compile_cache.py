"""What has been compiled is kept for the next command, where only its owner can put it, and is never needed."""

import os

import pytest
from command_line import QUICK, call

from gradflow.commands import compile_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own; where programs lie in it."""
    monkeypatch.delenv(compile_cache.JAX_FOLDER, raising=False)
    monkeypatch.delenv(compile_cache.ENABLED, raising=False)
    monkeypatch.setenv(compile_cache.FOLDER, str(tmp_path / "cache"))
    return compile_cache.folder(os.environ)


def sweep(tmp_path, name, *more):
    """Its workers write what they warn of to the logs of their runs: there must be nothing."""
    command = ("sweep", *QUICK, "--steps", 1, "--evaluations", 0, "--workers", 1, "--name", name)
    result = call(*command, "--results", tmp_path, *more)
    assert result.code == 0, result.err
    logs = [path.read_text() for path in (tmp_path / name / "runs").glob("*/log.txt")]
    assert logs
    assert "compilation cache" not in "".join(logs)


def kept(cache):
    return {path.name: path.read_bytes() for path in cache.glob("*-cache")}


def test_what_one_command_compiles_the_next_finds(cache, tmp_path):
    sweep(tmp_path, "first")
    found = kept(cache)
    assert any(name.startswith("jit_step") for name in found)
    # Rate, steps and seeds are inputs of the program.
    sweep(tmp_path, "second", "--learning-rate", 0.02, "--seeds", 2)
    assert kept(cache).keys() == found.keys()


def test_a_damaged_program_is_compiled_again(cache, tmp_path):
    sweep(tmp_path, "first")
    for name, content in kept(cache).items():
        (cache / name).write_bytes(content[: len(content) // 2])
    sweep(tmp_path, "second")


def test_nothing_is_kept_where_that_was_not_wanted(cache, tmp_path, monkeypatch):
    monkeypatch.setenv(compile_cache.ENABLED, "true")  # so that what the command sets is undone
    sweep(tmp_path, "first", "--no-cache")
    assert not cache.exists()


def test_the_users_own_choice_for_jax_stands(cache):
    environment = {compile_cache.JAX_FOLDER: "/own"}
    compile_cache.turn_on(environment)
    assert environment == {compile_cache.JAX_FOLDER: "/own"}


def test_a_folder_that_others_can_write_is_not_used(cache):
    environment = dict(os.environ)
    assert compile_cache.why_off(environment) == ""
    cache.chmod(0o777)
    assert "by others" in compile_cache.why_off(environment)
    compile_cache.turn_on(environment)
    assert compile_cache.JAX_FOLDER not in environment


def test_without_a_home_nothing_is_kept_in_the_current_directory(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(compile_cache.FOLDER)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the system knows no home
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert "no home" in compile_cache.why_off(os.environ)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_not_used(cache):
    cache.parent.write_text("")
    assert "Not a directory" in compile_cache.why_off(os.environ)


def test_a_folder_in_a_deleted_directory_is_not_used(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    environment = {compile_cache.FOLDER: "cache"}
    compile_cache.turn_on(environment)
    assert environment == {compile_cache.FOLDER: "cache"}
    assert "deleted" in compile_cache.why_off(environment)


@pytest.mark.parametrize("name", [os.fsdecode(b"b\xff"), "a\x1b[31m\n"])
def test_a_name_that_is_no_text_is_not_used(cache, name, tmp_path):
    environment = {compile_cache.FOLDER: str(tmp_path / name)}
    compile_cache.turn_on(environment)
    assert compile_cache.JAX_FOLDER not in environment
    assert "visible characters" in compile_cache.why_off(environment)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["~/cache", "cache"])
def test_what_a_folder_may_be_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    environment = {compile_cache.FOLDER: name}
    compile_cache.turn_on(environment)
    folder = tmp_path / name.replace("~", "home")
    assert environment[compile_cache.JAX_FOLDER].startswith(f"{folder}/")
    assert [path for path in tmp_path.iterdir() if path.name == "~"] == []
