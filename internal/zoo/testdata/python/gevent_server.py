# gevent-websocket as a server, in its own words a WSGI application:
# https://pypi.org/project/gevent-websocket/
import sys

from gevent import pywsgi
from geventwebsocket.handler import WebSocketHandler


def app(environ, start_response):
    if environ["PATH_INFO"] == "/private" and "HTTP_AUTHORIZATION" not in environ:
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="zoo"')])
        return [b"who are you\n"]
    ws = environ["wsgi.websocket"]
    while not ws.closed:
        message = ws.receive()
        if message == "leave":
            ws.close(4001, b"as asked")
        elif message is not None:
            ws.send(message)
    return []


if __name__ == "__main__":
    pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=WebSocketHandler).serve_forever()
