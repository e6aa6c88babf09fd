"""The entry point: `gradflow` and `python -m gradflow`. From the first line on a signal to stop ends in one line.

Later on only a sweep catches it, to let its workers write checkpoints: nothing else has anything to lose.
"""

import os
import signal
import sys

from gradflow.commands.stopped import EXIT_STOPPED, STOPPED


def main() -> None:
    """Imports and calls the command line."""
    _give_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Of a shell's background job it stays ignored; and a worker, whose parent speaks for it, just ends.
        if signal.getsignal(number) != signal.SIG_IGN and sys.argv[1:2] not in (["worker"], ["stopwatch"]):
            signal.signal(number, _stop)
    from gradflow.commands.cli import main as command_line

    command_line()


def _stop(*_: object) -> None:
    """Not by an exception: raised in the middle of an import, a library may turn it into another, or swallow it."""
    try:
        os.write(2, f"gradflow: {STOPPED}\n".encode())
    finally:
        os._exit(EXIT_STOPPED)


def _give_streams() -> None:
    """A closed stream is one to nowhere: else the next file that is opened would get its number, and be printed to."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


if __name__ == "__main__":
    main()
