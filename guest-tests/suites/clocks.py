# SPDX-License-Identifier: MIT
"""The host's clock by a real time server."""
import json
import os
import subprocess
import time

import bench
import lib
from lib import conf, guest, until
from runner import test


class Chrony:
    """A time server on the loopback, which emulated hosts reach as BENCH_IP:port. It leaves this machine's clock alone."""

    def __init__(self, run):
        self.port = bench.free_port()
        config = os.path.join(run.dir, "chrony.conf")
        with open(config, "w", encoding="ascii") as f:
            f.write(f"local stratum 3\nallow\nport {self.port}\nbindaddress 127.0.0.1\ncmdport 0\npidfile {config}.pid\n")
        with open(config + ".log", "w", encoding="ascii") as log:
            self.process = subprocess.Popen(["/usr/sbin/chronyd", "-d", "-x", "-U", "-f", config], stdout=log, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.process.terminate()
        self.process.wait()


@test(timeout=150)
def host_time(run):
    """A host takes its clock from chrony, and says so; a second server that does not answer does no harm."""
    with Chrony(run) as chrony:
        servers = f"{bench.BENCH_IP}:{chrony.port},{bench.BENCH_IP}:{bench.free_port()}"
        text = conf(guest("t", "hello.elf", autostart="no"), more=f"[time]\nservers={servers}\npoll=8s\n\n")
        host = run.host("a", run.esp("a", text, {"hello.elf": os.path.join(lib.GUESTS, "hello.elf")}), sync="slowdown")
        host.wait_for(r"time: follows " + servers.split(",")[0].replace(".", r"\."), 60)
        host.wait_for(r"hv: ready", 30)
        op = lib.Operator(run, host)

        def clock():
            return json.loads(op.godwit("time", "a", "--json").stdout)[0]["time"]

        got = until(lambda: (t := clock())["servers"][0]["reach"] >= 7 and t, 40, "three answers")
        assert got["state"] == "synchronized" and got["synchronized"] and got["stratum"] == 4, got
        assert got["dispersion-us"] < 50000 and abs(got["offset-us"]) < 2000000, got
        # The emulator's clock runs at the pace of this machine's, but not to the microsecond.
        assert abs(got["wall-us"] / 1e6 - time.time()) < 0.5, (got["wall-us"] / 1e6, time.time())
        assert got["servers"][1]["state"] == "unreachable", got
        text = op.godwit("time").stdout
        assert "synchronized, source" in text and "it does not answer" in text, text
