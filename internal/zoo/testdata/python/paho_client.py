"""Paho's client for Python: https://eclipse.dev/paho/files/paho.mqtt.python/html/"""

import os
import queue
import random
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt

from guest import guest


class Paho:
    opened = "MQTT"

    def __init__(self, url, stay):
        self.events, self.heard, self.ended = queue.Queue(), queue.Queue(), queue.Queue()
        self.topic = f"zoo/{random.getrandbits(60):x}"
        self.client = mqtt.Client(transport="websockets", reconnect_on_failure=stay)
        self.client.on_connect = lambda c, data, flags, rc: self.events.put(rc)
        self.client.on_subscribe = lambda *of: self.events.put("subscribed")
        self.client.on_message = lambda c, data, m: self.heard.put(m.payload)
        self.client.on_disconnect = lambda c, data, rc: self.ended.put(mqtt.error_string(rc))
        to = urlsplit(url)
        # Otherwise its origin is https:// even without TLS.
        self.client.ws_set_options(path="/mqtt", headers={"Origin": url})
        if to.scheme == "https":
            self.client.tls_set(os.environ["SSL_CERT_FILE"])
        self.client.connect(to.hostname, to.port)
        self.client.loop_start()
        if rc := self.events.get(timeout=20):
            raise ConnectionError(mqtt.connack_string(rc))
        self.client.subscribe(self.topic, 1)
        self.events.get(timeout=20)

    def say(self, size):
        self.client.publish(self.topic, b"\7" * size, 1)
        assert self.heard.get(timeout=20) == b"\7" * size

    def close(self):
        self.client.disconnect()

    def gone(self, timeout):
        try:
            return self.ended.get(timeout=timeout)
        except queue.Empty:
            return None


guest(Paho)
