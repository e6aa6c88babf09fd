"""How a command that was stopped ends: one line, and the exit code of a shell. It imports nothing: it comes first."""

EXIT_STOPPED = 130  # 128 + the number of SIGINT
STOPPED = "stopped; the same command goes on from here"
