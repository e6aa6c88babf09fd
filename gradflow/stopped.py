"""How a command ends that was stopped: one line, and the exit code of a shell. It imports nothing: it is there first."""

EXIT_STOPPED = 130  # 128 + the number of SIGINT
STOPPED = "stopped; the same command goes on from here"
