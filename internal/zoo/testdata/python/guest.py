"""What is the same for guests in Python: see ../npm/guest.js.

connect(url, stay) returns an object with opened, say(size), close() and
gone(timeout), which waits and returns how the connection ended, or None.
"""

import sys
import threading
import time


def guest(connect):
    mode, *args = sys.argv[1:]
    if mode == "stay":
        kept = [connect(url, True) for url in args]
        print("up", flush=True)
        time.sleep(1 << 20)
        del kept
    elif mode == "silent":
        came = {}

        def silence(i, url):
            g = connect(url, False)
            gone = g.gone(int(args[0]) / 1000)
            if gone is None:
                g.say(5)
            came[i] = "outlived" if gone is None else f"cut: {gone}"

        threads = [threading.Thread(target=silence, args=it) for it in enumerate(args[1:])]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i in sorted(came):
            print(f"silence {i}: {came[i]}")
    else:
        g = connect(args[0], False)
        print(f"open: {g.opened}")
        for size in 1, 200, 100000:
            g.say(size)
        print("messages: all come back")
        g.close()
        print(f"client closes: {g.gone(20)}")
