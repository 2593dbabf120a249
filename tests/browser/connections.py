"""The connections that an instance has, by what it counts itself."""

import re

import httpx

from tests.functions.api import Api
from tests.waiting import eventually


def streams(api: Api) -> float:
    """The connections that the instance has now."""
    text = httpx.get(f"{api.instance.url}/api/metrics").text
    return sum(map(float, re.findall(r"^realtime_subscribers\{.*\} (\S+)$", text, re.MULTILINE)))


async def has_streams(api: Api, count: int) -> None:
    """Return once the instance has so many: a predicate in the page could not ask, as a promise passes for true."""
    await eventually(lambda: streams(api) == count)
