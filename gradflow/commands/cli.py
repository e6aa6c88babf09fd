"""The entry point of the command line: from what was typed to a verb, and from what it raises to an exit code."""

import os
import sys
from importlib import metadata

from gradflow.commands.arguments import parse
from gradflow.commands.verbs import HIDDEN, VERBS
from gradflow.errors import BadInput

EXIT_BAD_INPUT = 2
EXIT_STOPPED, EXIT_PIPE = 130, 141  # 128 + the number of the signal, as in a shell: SIGINT, SIGPIPE


def main() -> None:
    """The entry point: parses, runs the verb, and turns `BadInput`, and what the system refuses, into one line and
    exit code 2.
    """
    arguments = sys.argv[1:] or ["--help"]
    if arguments == ["--version"]:
        print(f"gradflow {metadata.version('gradflow')}")
        sys.exit(0)
    if sys.argv[1:2] and sys.argv[1] in HIDDEN:
        sys.exit(HIDDEN[sys.argv[1]](*sys.argv[2:3]))
    try:
        try:
            sys.exit(parse(VERBS, arguments)())
        except BadInput as error:
            print(f"gradflow: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            print("gradflow: stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(EXIT_STOPPED)
        finally:
            print(end="", flush=True)  # now, because nothing catches what fails when Python ends
    except OSError as error:
        # When Python ends it writes what is left in the buffer: to nowhere (library reference, note on SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe: `gradflow describe vgg | head -3`
            sys.exit(EXIT_PIPE)
        print(f"gradflow: {error.filename or 'standard output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
