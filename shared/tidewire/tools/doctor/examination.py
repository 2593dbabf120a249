"""The checks in their order, and how each of them is run: in time, and with no secret in what it tells."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec

from tidewire.tools.doctor.clock import clock
from tidewire.tools.doctor.cors import cors, cors_stream
from tidewire.tools.doctor.credentials import anonymous_publish, forged_token, publish, ticket, token, wrong_key
from tidewire.tools.doctor.delivery import buffering, heartbeats, latency, long_poll, stream
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Decided, Finding, fail, skip
from tidewire.tools.doctor.page import page
from tidewire.tools.doctor.reach import health, metrics, reachability
from tidewire.tools.doctor.resume import resume
from tidewire.tools.doctor.settings import settings

Check = Callable[[Deployment], Awaitable[Finding]]

CHECKS: Mapping[str, Check] = {
    "settings": settings,
    "reachability": reachability,
    "health": health,
    "clock": clock,
    "anonymous-publish": anonymous_publish,
    "wrong-key": wrong_key,
    "publish": publish,
    "token": token,
    "ticket": ticket,
    "forged-token": forged_token,
    "cors": cors,
    "cors-stream": cors_stream,
    "long-poll": long_poll,
    "stream": stream,
    "page": page,
    "buffering": buffering,
    "latency": latency,
    "heartbeats": heartbeats,
    "resume": resume,
    "metrics": metrics,
}
"""Each check by its id. Those further down use what those above have found out."""


async def examine(deployment: Deployment, checks: Mapping[str, Check] = CHECKS) -> AsyncIterator[Finding]:
    """Yield what each check finds, as it finds it; where nobody answers, the rest is skipped at once."""
    unreachable = False
    for name, check in checks.items():
        found = skip("nobody answers: see `reachability`") if unreachable else await _run(check, deployment)
        unreachable = unreachable or (name == "reachability" and found.verdict == "fail")
        yield _without_secrets(msgspec.structs.replace(found, check=name), deployment.hidden)


async def _run(check: Check, deployment: Deployment) -> Finding:
    seconds = deployment.limits.check
    try:
        async with asyncio.timeout(seconds):
            return await check(deployment)
    except Decided as decided:
        return decided.finding
    except TimeoutError:
        return fail(
            f"not done within {seconds:g} s", "Ask again with a longer --timeout; see the log of the deployment"
        )


LEAST_SECRET = 8  # characters: a shorter one, of a test, cannot be told from a word of ours


def _without_secrets(finding: Finding, secrets: set[str]) -> Finding:
    """What a server or a front answers may repeat what it was sent."""

    def clean(text: str) -> str:
        for secret in (secret for secret in secrets if len(secret) >= LEAST_SECRET):
            text = text.replace(secret, "[secret]")
        return text

    return msgspec.structs.replace(finding, reason=clean(finding.reason), advice=clean(finding.advice))
