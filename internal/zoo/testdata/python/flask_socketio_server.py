# Flask-SocketIO as a server: https://flask-socketio.readthedocs.io/
import sys

import eventlet

eventlet.monkey_patch()

from flask import Flask  # noqa: E402
from flask_socketio import SocketIO, emit  # noqa: E402

app = Flask(__name__)
socketio = SocketIO(app, async_mode="eventlet", max_http_buffer_size=2**22)


@socketio.on("echo")
def echo(data):
    emit("echo", data)


socketio.run(app, host="127.0.0.1", port=int(sys.argv[1]))
