"""`python -m shared migrate` brings the schema of the log in Postgres up to date."""

import sys

from shared import migrations


def main(arguments: list[str]) -> int:
    """Do what the arguments ask for."""
    if arguments != ["migrate"]:
        print("usage: python -m shared migrate", file=sys.stderr)
        return 2
    return migrations.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
