"""`python -m tidewire`: the command line."""

from tidewire.tools.cli.main import run

if __name__ == "__main__":
    run()
