"""The bare Mangum(Starlette) hello: the floor of a cold start."""

from mangum import Mangum
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse({"hello": "world"}, status_code=202)


handler = Mangum(Starlette(routes=[Route("/api/publish", hello, methods=["POST"])]), lifespan="off")
