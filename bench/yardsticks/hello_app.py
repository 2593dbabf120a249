"""The least that answers a POST, as an ASGI app and as a Lambda handler."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse({"hello": "world"}, status_code=202)


app = Starlette(routes=[Route("/hello", hello, methods=["POST"])])
