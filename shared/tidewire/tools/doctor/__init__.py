"""`tidewire doctor`: what can be known of a deployment from outside, one check after the other.

A check is a coroutine that takes the `Deployment` and returns a `Finding`; `examination` has their order. All that is
published is of the type `tidewire.doctor`, and for one user whom nobody else is.
"""

from tidewire.tools.doctor.deployment import Deployment, Limits
from tidewire.tools.doctor.examination import CHECKS, examine
from tidewire.tools.doctor.findings import Finding

__all__ = ["CHECKS", "Deployment", "Finding", "Limits", "examine"]
