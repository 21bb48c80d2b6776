# Tornado as a server: https://www.tornadoweb.org/en/stable/websocket.html
import asyncio
import sys

import tornado.web
import tornado.websocket


class Echo(tornado.websocket.WebSocketHandler):
    def select_subprotocol(self, subprotocols):
        return "zoo.v2" if "zoo.v2" in subprotocols else None

    def get_compression_options(self):
        return {}

    def on_message(self, message):
        if message == "leave":
            self.close()
        else:
            self.write_message(message, binary=isinstance(message, bytes))


class Private(Echo):
    def prepare(self):
        if "Authorization" not in self.request.headers:
            self.set_header("WWW-Authenticate", 'Basic realm="zoo"')
            self.set_status(401)
            self.finish()


async def main():
    app = tornado.web.Application([("/echo", Echo), ("/private", Private)], websocket_ping_interval=1)
    app.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
