"""uWSGI's own WebSockets: https://uwsgi-docs.readthedocs.io/en/latest/WebSockets.html"""

import uwsgi


def application(env, start_response):
    if env["PATH_INFO"] == "/private" and "HTTP_AUTHORIZATION" not in env:
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="zoo"')])
        return [b"who are you\n"]
    uwsgi.websocket_handshake(env["HTTP_SEC_WEBSOCKET_KEY"], env.get("HTTP_ORIGIN", ""))
    while True:
        try:
            message = uwsgi.websocket_recv()
        except OSError:
            return []
        if message == b"leave":
            return []
        uwsgi.websocket_send(message)
