"""GET /api/events as a process of its own: `python -m functions.stream`, behind the Lambda Web Adapter."""

import sys

from tidewire.http.stream_server import main

if __name__ == "__main__":
    sys.exit(main())
