"""The example of docs/webhooks.md, and the environment that it needs."""

from tests.support.processes import ROOT
from tests.unit.ingest.webhooks.signers import SIGNERS

CONFIG = ROOT / "examples" / "webhooks" / "realtime.toml"
PAYLOADS = ROOT / "tests" / "payloads"

SECRETS = {
    "GITHUB_WEBHOOK_SECRET": SIGNERS["github"].secrets[0],
    "STRIPE_WEBHOOK_SECRET": SIGNERS["stripe"].secrets[0],
    "SLACK_SIGNING_SECRET": SIGNERS["slack"].secrets[0],
    "NETLIFY_WEBHOOK_SECRET": SIGNERS["netlify"].secrets[0],
}
SETTINGS = {"REALTIME_CONFIG": str(CONFIG), "REALTIME_HEARTBEAT": "200ms", **SECRETS}
