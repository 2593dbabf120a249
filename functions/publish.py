"""POST /api/publish, on AWS Lambda."""

from tidewire.http.lambda_entry import HttpFunction
from tidewire.http.publish import routes

handler = HttpFunction(routes)
