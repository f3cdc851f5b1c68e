# SPDX-License-Identifier: MIT
"""The host's clock by a real time server; CPU baselines; guests defined while the host runs."""
import json
import os
import subprocess
import time

import bench
import lib
from lib import conf, guest, until
from pair import Pair, wait_until
from runner import test
import move


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


@test(timeout=600, cores=2)
def wall_clock_moves(run):
    """Both hosts were set by chrony. A guest that is frozen for more than a second is as right as before, there and back.

    What its clock is compared with is its host's. Emulated hosts that cannot keep up with chrony would step again and again:
    these are slow enough to keep up, and ask no more while the guest moves.
    """
    with Chrony(run) as chrony:
        time_section = f"[time]\nservers={bench.BENCH_IP}:{chrony.port}\npoll=1024s\n"
        options = {name: {"sync": "slowdown", "ips": 50_000_000} for name in "ab"}
        pair = Pair(run, {"a": time_section + move.WEB, "b": time_section}, move.LINUX, options)

        def error(at, tag):
            """How far the guest's wall clock is from its host's, in seconds, and how well that is known."""
            before = pair.q[at].call("query-time")["wall-us"]
            pair.q[at].type("web", f"now {tag}\n")
            real = float(pair.hosts[at].wait_for(rf"^web\| HB NOW {tag} real=(\S+)", timeout=30).group(1))
            after = pair.q[at].call("query-time")["wall-us"]
            return real - (before + after) / 2e6, (after - before) / 2e6

        for name in "ab":
            clock = wait_until(lambda q=pair.q[name]: (t := q.call("query-time"))["servers"][0]["reach"] >= 15 and t, "four answers", 120)
            print(f"host {name}: offset {clock['offset-us']} us, dispersion {clock['dispersion-us']} us", flush=True)
            assert clock["synchronized"], clock
        pair.hosts["a"].wait_for(r"^web\| HB seq=5 ", timeout=200)
        pair.q["a"].type("web", "dirtyset 12\n")
        pair.q["a"].type("web", "dirty 32\n")
        for at, to in ("ab", "ba"):
            was, unsure = error(at, f"from-{at}")
            info = pair.move("web", to, max_rounds=1, downtime_limit=30000, timeout=300)
            now, unsure2 = error(to, f"on-{to}")
            down = info["downtime-us"] / 1e6
            print(f"{at} to {to}: down {down:.3f} s; off by {was:+.3f} s (+-{unsure:.3f}), then by {now:+.3f} (+-{unsure2:.3f})", flush=True)
            assert down > 1 and abs(now - was) < down / 3, "the guest's clock lost the time of the freeze"
        move.check_beats(pair)


@test(timeout=120)
def definitions(run):
    """A CPU without AVX-512: baselines that fit and that do not. Guests are defined, changed and forgotten while it runs."""
    files = {name: os.path.join(lib.GUESTS, name) for name in ("cpuid.elf", "hello.elf", "spin.elf")}
    text = conf(
        guest("v3", "cpuid.elf", cpu="x86-64-v3,+rdrand", os="multiboot"),
        guest("v4", "hello.elf", cpu="x86-64-v4", autostart="no"),
        guest("spin", "spin.elf", autostart="no"),
    )
    host = run.host("a", run.esp("a", text, files), sync="none", cpu="corei7_haswell_4770")
    host.wait_for(r"hv: ready", 60)
    op = lib.Operator(run, host)
    c = op.control()
    entry = c.wait_status("v3", "shutdown")
    assert entry.get("debug-exit-code") == 0, (entry, c.console("v3"))
    got = op.godwit("start", "v4", check=False)
    assert got.returncode == 1 and "this host's CPU lacks" in got.stderr and "avx512f" in got.stderr, got
    op.godwit("change", "v4", "cpu=x86-64-v3,+aes")
    assert "it is now" in op.godwit("start", "v4").stdout
    entry = c.wait_status("v4", "shutdown")
    assert entry.get("debug-exit-code") == 0, entry

    got = op.godwit("create", "new", "--host", "a", "kernel=other.elf", check=False)
    assert got.returncode == 1 and "has not read other.elf" in got.stderr, got
    op.godwit("create", "new", "--host", "a", "kernel=spin.elf", "memory=8M", "os=multiboot", "disk=ram:1M")
    op.godwit("start", "new")
    assert c.wait_console("new", "SPIN")
    got = op.godwit("delete", "new", check=False)
    assert got.returncode == 1 and "stop it first" in got.stderr, got
    op.godwit("stop", "new", "--force")
    free = op.status()[0]["memory-free"]
    op.godwit("change", "new", "memory=16M", "kernel=hello.elf", "debug-exit=yes")
    op.godwit("start", "new")
    assert c.wait_status("new", "shutdown").get("debug-exit-code") == 0, c.guests()["new"]
    op.godwit("delete", "new")
    assert "new" not in c.guests()
    until(lambda: op.status()[0]["memory-free"] >= free, 10, "its memory comes back")
