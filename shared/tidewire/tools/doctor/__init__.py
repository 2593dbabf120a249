"""`tidewire doctor`: checks of a deployment from outside, run one after the other.

A check is a coroutine that takes the `Deployment` and returns a `Finding`; `checks` has their order. The events that
they publish have the type `tidewire.doctor` and an audience of one invented user.
"""

from tidewire.tools.doctor.checks import CHECKS, run_checks
from tidewire.tools.doctor.deployment import Deployment, Limits
from tidewire.tools.doctor.findings import Finding

__all__ = ["CHECKS", "Deployment", "Finding", "Limits", "run_checks"]
