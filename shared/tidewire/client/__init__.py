"""The Python client: a subscription that reconnects and resumes after its last event.

    async for item in subscribe("http://127.0.0.1:8787/api/events", token, types=["task-updated"]):
        if isinstance(item, Event): ...    # item.data; item.cursor resumes after it
        else: ...                          # a Gap: events are lost, reload the state

It follows the same rules as the browser client (site/realtime.js).
"""

from tidewire.client.items import Event, Gap, Item, State
from tidewire.client.subscription import Subscription, subscribe
from tidewire.client.token_renewal import Token

__all__ = ["Event", "Gap", "Item", "State", "Subscription", "Token", "subscribe"]
