"""What a subscription hands to its caller: events, gaps, and how it is doing."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Event(msgspec.Struct, frozen=True):
    """An event as it was published; `raw` is its data's JSON text, character by character.

    `cursor` is where to go on after it. (Of a page it is the page's start, but for the last event: whoever stops
    within a page reads it again and loses nothing.) `time` is RFC 3339; `attributes` are the CloudEvents attributes
    beyond those. `replayed`: it was read from the log, before the subscription was live.
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
        """The data, parsed anew at each call."""
        return json.loads(self.raw)


class Gap(msgspec.Struct, frozen=True):
    """Events are lost to this subscriber: reload the state that they would have changed.

    `reason` is one of docs/protocol.md's, or what a newer server says; whoever resumes from `cursor` does not hear of
    this gap again.
    """

    reason: str
    cursor: str


Item = Event | Gap


class State(msgspec.Struct, frozen=True):
    """Where the subscription stands, told at each change.

    `reason` is why: of `waiting`, how the last connection ended (a `realtime.closing` reason, `lost`, `silent`,
    `renewed`, or `refused` with `detail`), and then `delay` is the wait in seconds. `replayed` and `recovered` are
    what `realtime.ready` told. `mode` is `poll` where streams do not come through.
    """

    name: Literal["connecting", "replaying", "live", "waiting", "closed"]
    reason: str
    mode: Literal["stream", "poll"] = "stream"
    delay: float = 0.0
    detail: str = ""
    replayed: int = 0
    recovered: bool = True
