"""POST /api/tokens, /api/tickets and /api/revocations, GET /api/config, on AWS Lambda."""

from tidewire.http.lambda_entry import HttpFunction
from tidewire.http.tokens import routes

handler = HttpFunction(routes)
