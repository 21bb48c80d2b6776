# trio-websocket as a server: https://trio-websocket.readthedocs.io/
import sys

import trio
from trio_websocket import ConnectionClosed, serve_websocket


async def echo(request):
    if request.path == "/private" and b"authorization" not in dict(request.headers):
        await request.reject(401, extra_headers=[(b"WWW-Authenticate", b'Basic realm="zoo"')], body=b"who are you\n")
        return
    ws = await request.accept(subprotocol="zoo.v2" if "zoo.v2" in request.proposed_subprotocols else None)
    try:
        while True:
            message = await ws.get_message()
            if message == "leave":
                await ws.aclose(4001, "as asked")
                return
            await ws.send_message(message)
    except ConnectionClosed:
        pass


trio.run(serve_websocket, echo, "127.0.0.1", int(sys.argv[1]), None)
