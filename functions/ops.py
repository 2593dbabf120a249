"""Health, metrics and the OpenAPI document, on AWS Lambda."""

from tidewire.http.lambda_entry import HttpFunction
from tidewire.http.ops import routes

handler = HttpFunction(routes)
