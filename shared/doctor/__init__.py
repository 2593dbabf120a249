"""`tidemark doctor`: what can be known of a deployment from outside, one check after the other.

A check is a coroutine that takes the `Deployment` and returns a `Finding`; `examination` has their order. All that is
published is of the type `tidemark.doctor`, and for one user whom nobody else is.
"""

from shared.doctor.deployment import Deployment, Limits
from shared.doctor.examination import CHECKS, examine
from shared.doctor.findings import Finding

__all__ = ["CHECKS", "Deployment", "Finding", "Limits", "examine"]
