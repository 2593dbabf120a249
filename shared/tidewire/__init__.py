"""Tidewire: durable realtime events for serverless apps.

    app = tidewire.create_app()                     # the ASGI app: publish, streams, webhooks, tokens, console

    async for item in tidewire.subscribe(url):      # a subscriber that resumes after every disconnect
        ...

The names below are imported at their first use, so that `import tidewire` loads nothing else (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidewire.client import Event, Gap, State, Subscription, Token, subscribe
    from tidewire.errors import (
        Forbidden,
        InvalidRequest,
        SettingsError,
        SubscriptionStopped,
        TidewireError,
        Unauthorized,
    )
    from tidewire.http.local import create_app

__version__ = "0.1.0"

__all__ = [
    "Event",
    "Forbidden",
    "Gap",
    "InvalidRequest",
    "SettingsError",
    "State",
    "Subscription",
    "SubscriptionStopped",
    "TidewireError",
    "Token",
    "Unauthorized",
    "__version__",
    "create_app",
    "subscribe",
]

_CLIENT = ("Event", "Gap", "State", "Subscription", "Token", "subscribe")
_MODULES = dict.fromkeys(_CLIENT, "tidewire.client") | {"create_app": "tidewire.http.local"}

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES.get(name, "tidewire.errors")), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
