"""The program that stands between us and a server of ours: when its standard input ends, it stops the server.

Only our process holds the other end of that pipe, so end of file means that we are gone by any way, kill -9 too, on
Linux and macOS alike. (PR_SET_PDEATHSIG is Linux only, follows the forking thread and is lost on setuid.) It alone
drops privileges, for the server only, so that a Python below root's home need not be readable by anyone else.

Run as a script with `python -I -S`, so it imports nothing but the standard library:

    lifeline_process.py ORDERS COMMAND...     ORDERS: JSON {"grace": seconds, "stop": signal, "last": signal,
                                              "account": [uid, gid] or null}

It prints the server's pid on its standard output and ends with the server's exit code.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any


def main() -> None:
    orders: dict[str, Any] = json.loads(sys.argv[1])
    drop: dict[str, Any] = {}
    if orders["account"] is not None:
        uid, gid = orders["account"]
        drop = {"user": uid, "group": gid, "extra_groups": []}
    # Who was started with nohup or & has them ignored, and so would the server.
    for each in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)
    # stdout is ours alone, for the pid; the server writes to stderr, which is its log file.
    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd="/", **drop)
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    os.write(1, f"{server.pid}\n".encode())  # before the thread: a server that ends at once has had a pid too
    threading.Thread(target=lambda: os._exit(server.wait() & 0xFF), daemon=True).start()
    while os.read(0, 1):
        pass
    server.send_signal(orders["stop"])
    try:
        server.wait(orders["grace"])
    except subprocess.TimeoutExpired:
        server.send_signal(orders["last"])
        server.wait()


if __name__ == "__main__":
    main()
