"""`python -m gradflow`."""

from gradflow.commands.cli import main

if __name__ == "__main__":
    main()
