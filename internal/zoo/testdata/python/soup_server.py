"""libsoup as a server: https://libsoup.org/libsoup-3.0/method.Server.add_websocket_handler.html"""

import sys

import gi

gi.require_version("Soup", "3.0")
from gi.repository import GLib, Soup

clients = set()


def receive(ws, kind, data):
    if kind == Soup.WebsocketDataType.TEXT and data.get_data() == b"leave":
        ws.close(4001, "as asked")
    else:
        ws.send_message(kind, data)


def connect(server, message, path, ws):
    ws.props.max_incoming_payload_size = 1 << 21
    ws.connect("message", receive)
    ws.connect("closed", clients.discard)
    clients.add(ws)


server = Soup.Server()
server.add_websocket_handler("/", None, ["zoo.v2"], connect)
login = Soup.AuthDomainBasic(realm="zoo")
login.add_path("/private")
server.add_auth_domain(login)
server.listen_local(int(sys.argv[1]), Soup.ServerListenOptions.IPV4_ONLY)
GLib.MainLoop().run()
