# aiohttp as a server: https://docs.aiohttp.org/en/stable/web_quickstart.html#websockets
import sys

from aiohttp import WSMsgType, web


async def echo(request):
    ws = web.WebSocketResponse(protocols=("zoo.v2",))
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            if message.data == "leave":
                await ws.close(code=4001, message=b"as asked")
            else:
                await ws.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def private(request):
    if "Authorization" not in request.headers:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="zoo"'})
    return await echo(request)


app = web.Application()
app.add_routes([web.get("/echo", echo), web.get("/private", private)])
# Its default for large messages is 4 MiB.
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
