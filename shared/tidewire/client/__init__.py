"""The Python client: one subscriber that never loses its place.

    async for item in subscribe("http://127.0.0.1:8787/api/events", token, types=["task-updated"]):
        if isinstance(item, Event): ...    # item.data; item.cursor is where to go on after it
        else: ...                          # a Gap: what lies before it may be stale, reload it

It gives what the browser client (site/realtime.js) gives, by the same rules.
"""

from tidewire.client.items import Event, Gap, Item, State
from tidewire.client.renewal import Token
from tidewire.client.subscription import Subscription, subscribe

__all__ = ["Event", "Gap", "Item", "State", "Subscription", "Token", "subscribe"]
