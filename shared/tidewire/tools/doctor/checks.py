"""The checks in order, each with a time limit, and their findings without secrets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec

from tidewire.tools.doctor.cors import cors, cors_stream
from tidewire.tools.doctor.credentials import anonymous_publish, forged_token, publish, ticket, token, wrong_key
from tidewire.tools.doctor.delivery import buffering, heartbeats, latency, long_poll, stream
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Decided, Finding, fail, skip
from tidewire.tools.doctor.page import page
from tidewire.tools.doctor.reach import clock, health, metrics, reachability
from tidewire.tools.doctor.resume import resume
from tidewire.tools.doctor.settings import settings
from tidewire.tools.doctor.store import store

Check = Callable[[Deployment], Awaitable[Finding]]

CHECKS: Mapping[str, Check] = {
    "settings": settings,
    "store": store,
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
"""Each check by its id. Later checks use the results of earlier ones, stored in the `Deployment`."""

MIN_SECRET_CHARACTERS = 8  # replacing a shorter one, as in tests, would replace ordinary words


async def run_checks(deployment: Deployment, checks: Mapping[str, Check] = CHECKS) -> AsyncIterator[Finding]:
    """Yield the finding of each check as it ends; if `reachability` fails, the checks after it are skipped."""
    is_unreachable = False
    for name, check in checks.items():
        finding = skip("no response: see `reachability`") if is_unreachable else await _run(check, deployment)
        is_unreachable = is_unreachable or (name == "reachability" and finding.verdict == "fail")
        yield _without_secrets(msgspec.structs.replace(finding, check=name), deployment.secrets)


async def _run(check: Check, deployment: Deployment) -> Finding:
    seconds = deployment.limits.check
    try:
        async with asyncio.timeout(seconds):
            return await check(deployment)
    except Decided as decided:
        return decided.finding
    except TimeoutError:
        return fail(
            f"the check did not end within {seconds:g} s", "Use a longer --timeout; see the log of the deployment"
        )


def _without_secrets(finding: Finding, secrets: set[str]) -> Finding:
    """Return the finding with secrets replaced: the response of a server or proxy may repeat the request."""

    def clean(text: str) -> str:
        for secret in (secret for secret in secrets if len(secret) >= MIN_SECRET_CHARACTERS):
            text = text.replace(secret, "[secret]")
        return text

    return msgspec.structs.replace(finding, reason=clean(finding.reason), advice=clean(finding.advice))
