"""Opens the console page in the browser once the server responds: `open_console.py PID`, the server's process id.

Does nothing without a desktop session, and ends with the server.
"""

import os
import sys
import time
import urllib.request
import webbrowser

POLL_SECONDS = 0.1
GIVE_UP_SECONDS = 60.0  # a start takes one second; after this, see the server's own output


def main() -> None:
    """Wait for the server, then open its page."""
    if not has_desktop():
        return
    server = int(sys.argv[1])
    page = f"http://127.0.0.1:{os.environ.get('PORT') or 8787}/"
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not is_live(page):
        if time.monotonic() > deadline or not is_running(server):
            return
        time.sleep(POLL_SECONDS)
    webbrowser.open(page)


def is_live(page: str) -> bool:
    """Whether the server responds."""
    # Without a proxy: urllib would use one from the environment for 127.0.0.1 too.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(page + "api/health/live", timeout=1).close()
    except OSError:
        return False
    return True


def is_running(pid: int) -> bool:
    """Whether the process is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def has_desktop() -> bool:
    """Whether there is a desktop session; a text browser would take over the server's terminal."""
    browser = os.environ.get("BROWSER", "")
    if browser == "none" or os.environ.get("CI"):
        return False
    if browser or sys.platform == "win32":
        return True
    if sys.platform == "darwin":
        return "SSH_CONNECTION" not in os.environ
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    main()
