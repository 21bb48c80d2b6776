# ws4py on CherryPy as a server: https://ws4py.readthedocs.io/en/latest/sources/servertutorial/
import sys

import cherrypy
from ws4py.server.cherrypyserver import WebSocketPlugin, WebSocketTool
from ws4py.websocket import WebSocket

cherrypy.config.update({"server.socket_host": "127.0.0.1", "server.socket_port": int(sys.argv[1])})
WebSocketPlugin(cherrypy.engine).subscribe()
cherrypy.tools.websocket = WebSocketTool()


class Echo(WebSocket):
    def received_message(self, message):
        if message.data == b"leave":
            self.close(4001, "as asked")
        else:
            self.send(message.data, message.is_binary)


class Root:
    @cherrypy.expose
    def echo(self):
        pass


cherrypy.quickstart(
    Root(),
    "/",
    config={"/echo": {"tools.websocket.on": True, "tools.websocket.handler_cls": Echo, "tools.websocket.protocols": ["zoo.v2"]}},
)
