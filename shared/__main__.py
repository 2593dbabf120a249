"""`python -m shared`, which is also the command `tidemark`: the command line."""

import sys

from shared.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
