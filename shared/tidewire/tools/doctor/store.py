"""`store`: the servers of the store, if this shell has their address: which are there, and how far behind."""

from collections import Counter

from tidewire.errors import SettingsError
from tidewire.settings.config import Settings
from tidewire.settings.secrets import references
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Finding, Measured, Verdict, fail, skip
from tidewire.transports.base import Inspection, Role
from tidewire.wiring import inspect_store

_PLURALS: dict[Role, str] = {
    "primary": "primaries",
    "replica": "replicas",
    "sentinel": "sentinels",
}


async def store(deployment: Deployment) -> Finding:
    """Ask each server of the store."""
    environ = deployment.environ
    try:
        if "REALTIME_TRANSPORT" not in environ or references(environ):
            return skip("this shell does not have the variables of the deployment, which name the store")
        inspection = await inspect_store(Settings.from_env(environ))
    except SettingsError as error:
        return fail(str(error), "See docs/transports.md")
    if inspection is None:
        return skip("the store has no servers to ask")
    return _finding(inspection)


def _finding(inspection: Inspection) -> Finding:
    counts = Counter(node.role for node in inspection.nodes)
    roles = {role: counts[role] for role in _PLURALS if counts[role]}
    measured: dict[str, Measured] = {_PLURALS[role]: count for role, count in roles.items()}
    behind = [node.behind for node in inspection.nodes if node.behind is not None]
    if behind:
        measured["behindBytes"] = max(size for size, _ in behind)
        measured["behindSeconds"] = max(seconds for _, seconds in behind)
    summary = ", ".join(f"{count} {role if count == 1 else _PLURALS[role]}" for role, count in roles.items())
    if behind:
        summary += f"; replicas are at most {measured['behindBytes']:,} bytes and {measured['behindSeconds']} s behind"
    if not inspection.problems:
        return Finding("", "ok", summary, measured)
    verdict: Verdict = "fail" if any(problem.is_severe for problem in inspection.problems) else "warn"
    reasons = [problem.text for problem in inspection.problems]
    advice = "; ".join(dict.fromkeys(problem.remedy for problem in inspection.problems))
    return Finding("", verdict, "; ".join([summary, *reasons] if summary else reasons), measured, advice)
