"""The items and states of a subscription: events, gaps and connection states."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Event(msgspec.Struct, frozen=True):
    """A published event; `raw` is the JSON text of its data, unchanged.

    `cursor` resumes after the event. (While polling it is the start of the page for all but the last event, so a caller
    that stops within a page receives the page again.) `time` is RFC 3339; `attributes` are the other CloudEvents
    attributes. `replayed`: the event was read from the log before the subscription was live.
    """

    id: str
    type: str
    raw: str
    cursor: str
    time: str | None = None
    source: str | None = None
    attributes: Mapping[str, str] = {}
    replayed: bool = False

    @property
    def data(self) -> Any:
        """The data, parsed on each access."""
        return json.loads(self.raw)


class Gap(msgspec.Struct, frozen=True):
    """Events are lost for this subscriber: reload the state that they would have changed.

    `reason` is one of docs/protocol.md, or that of a newer server. `cursor` resumes after the gap.
    """

    reason: str
    cursor: str


Item = Event | Gap


class State(msgspec.Struct, frozen=True):
    """The state of the subscription, passed to `on_state` at each change.

    For `waiting`, `reason` is how the last connection ended (a `realtime.closing` reason, `lost`, `silent`, `renewed`,
    or `refused` with `detail`), and `delay` is in seconds. `replayed` and `recovered` are those of `realtime.ready`.
    `mode` is `poll` while streams do not get through.
    """

    name: Literal["connecting", "replaying", "live", "waiting", "closed"]
    reason: str
    mode: Literal["stream", "poll"] = "stream"
    delay: float = 0.0
    detail: str = ""
    replayed: int = 0
    recovered: bool = True
