"""GET /api/events as a process behind the Lambda Web Adapter: `python -m functions.stream`."""

import sys

from tidewire.http.stream_server import main

if __name__ == "__main__":
    sys.exit(main())
