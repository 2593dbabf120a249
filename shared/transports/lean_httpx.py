"""httpx without its command line, for functions that start cold.

`import httpx` brings its command line along where click is installed, and uvicorn needs click: a third of the import,
for something that no function calls. Where that cannot be imported httpx goes without, by its own design.
"""

import importlib
import sys
from typing import Any

_COMMAND_LINE = "httpx._main"


def load() -> None:
    """Import httpx; does nothing where it has been imported already."""
    if "httpx" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules  # None makes an import fail (Python's import system, section 5.3.1)
    modules[_COMMAND_LINE] = None
    try:
        importlib.import_module("httpx")
    finally:
        del modules[_COMMAND_LINE]


load()
