"""The whole app in one process: `python -m functions.local`."""

import sys

from tidewire.http.local import main

if __name__ == "__main__":
    sys.exit(main())
