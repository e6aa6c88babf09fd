"""The entry point of the command line: from what was typed to a verb, and from what it raises to an exit code."""

import contextlib
import io
import os
import sys
import traceback
from importlib import metadata
from pathlib import Path

from gradflow.commands import compile_cache
from gradflow.commands.arguments import parse
from gradflow.commands.stopped import EXIT_STOPPED, STOPPED
from gradflow.commands.verbs import HIDDEN, VERBS
from gradflow.errors import BadInput
from gradflow.plain_text import plain

EXIT_BAD_INPUT = 2
EXIT_PIPE = 141  # 128 + the number of SIGPIPE, as in a shell


def main() -> None:
    """The entry point: parses, runs the verb, and turns `BadInput`, and what the system refuses, into one line and
    exit code 2.
    """
    _prepare()
    arguments = _set_cache(sys.argv[1:]) or ["--help"]
    if sys.argv[1:2] and sys.argv[1] in HIDDEN:
        sys.exit(HIDDEN[sys.argv[1]](*sys.argv[2:3]))
    try:
        try:
            if arguments == ["--version"]:
                print(f"gradflow {metadata.version('gradflow')}")
                sys.exit(0)
            _check_text(arguments)
            sys.exit(parse(VERBS, arguments)())
        except BadInput as error:
            _say(error)
            sys.exit(EXIT_BAD_INPUT)
        except ValueError as error:
            if not _of_environment(error):
                raise
            _say(f"JAX refuses a variable of the environment: {error}")
            sys.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            _say(STOPPED)
            sys.exit(EXIT_STOPPED)
        finally:
            print(end="", flush=True)  # now, because nothing catches what fails when Python ends
    except OSError as error:
        # When Python ends it writes what is left in the buffer: to nowhere (library reference, note on SIGPIPE).
        with contextlib.suppress(io.UnsupportedOperation):  # it is no file but what somebody put in its place
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe: `gradflow describe vgg | head -3`
            sys.exit(EXIT_PIPE)
        reason = f"{error.filename or 'standard output'}: {error.strerror or error}"
        _say(reason)
        sys.exit(EXIT_BAD_INPUT)


def _of_environment(error: BaseException) -> bool:
    """Whether JAX raised it while it read its settings, such as JAX_ENABLE_X64=perhaps."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).parts[-3:] == ("jax", "_src", "config.py")


def _say(message: object) -> None:
    """The one line on standard error, which may be full or closed: then the exit code says it alone."""
    with contextlib.suppress(OSError):
        print(f"gradflow: {plain(message)}", file=sys.stderr, flush=True)


def _prepare() -> None:
    """What a terminal's encoding lacks is printed as an escape, and no figure waits for a backend to be imported."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream that somebody put in its place
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    os.environ.pop("MPLBACKEND", None)  # a notebook sets it for its own kernel, and matplotlib refuses one it lacks


def _set_cache(arguments: list[str]) -> list[str]:
    """Compiled programs are kept between commands, unless one of the arguments, which are returned without it, is
    `--no-cache`.
    """
    if "--no-cache" in arguments:
        compile_cache.turn_off(os.environ)
    compile_cache.turn_on(os.environ)
    return [argument for argument in arguments if argument != "--no-cache"]


def _check_text(arguments: list[str]) -> None:
    """Raises `BadInput` for an argument that is no text: a table or a record, which are UTF-8, could not hold it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            encoding = sys.getfilesystemencoding()
            raise BadInput(f"{argument} is not text in {encoding}, the encoding here: give a name that is") from None
