"""POST /api/webhooks/{source}, on AWS Lambda."""

from tidewire.http.lambda_entry import HttpFunction
from tidewire.http.webhooks import routes

handler = HttpFunction(routes)
