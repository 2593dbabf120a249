"""Health, metrics and the API's description, on AWS Lambda."""

from tidewire.http.lambda_entry import HttpFunction
from tidewire.http.ops import routes

handler = HttpFunction(routes)
