# SPDX-License-Identifier: MIT
"""A stock Debian system with its disk on an NBD server and clients on its LAN, which moves while they watch.

Blackouts are printed as the clients see them, in seconds of the wall clock; emulated hosts are slower than that.
"""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lan import Lan
from lanclient import Client
from pair import TOP, Pair, wait_until
from runner import test
from servers import NbdServer, check_filesystem, check_transactions, copy_image

DEBIAN = os.path.join(TOP, "build", "debian")
FILES = {name: os.path.join(DEBIAN, name) for name in ("vmlinuz", "initrd.img")}
ADDRESS = "10.77.0.2"
CMDLINE = (
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 cryptomgr.notests loglevel=5 systemd.show_status=no"
    f" ip={ADDRESS}::10.77.0.1:255.255.255.0::eth0:off"
)
BEAT = re.compile(r"GT HB seq=(\d+) mono=(\d+)\.(\d{9}) real=\S+ clock=(\S+) late=(\d+) bad=(\d+) tcp=(\d+) req=(\d+) tx=(\d+)")
SERVICES = " godwit.test=tcpstream,echo,sqlite godwit.sql_ms=50"


class Debian:
    """The system on host a of a pair, its disk server and its LAN."""

    def __init__(self, run, kind="nbdkit", tls=False, vcpus=2, memory="256M", cmdline=SERVICES, cpus=1, **server):
        disk = os.path.join(DEBIAN, "disk.img")
        assert os.path.exists(disk), "build/debian is missing. Run 'make debian-guest'."
        self.run, self.clients = run, []
        self.image = copy_image(disk, os.path.join(run.dir, "disk.img"))
        self.server = NbdServer(kind, self.image, run.dir, tls=run.pki if tls else None, **server).start()
        self.lan = Lan(run.dir)
        switch = "[switch lan]\nuplink=1\n"
        guest = (
            f"[guest web]\nmemory={memory}\nvcpus={vcpus}\nkernel=vmlinuz\ninitrd=initrd.img\nos=linux\n"
            f"cmdline={CMDLINE}{cmdline}\ndisk={self.server.uri()}\nnic=lan\nconsole=serial\nautostart=yes\n"
        )
        self.pair = Pair(
            run,
            {"a": switch + guest, "b": switch},
            FILES,
            {name: {"lan": self.lan.port(i), "cpus": cpus, "memory": 640} for i, name in enumerate("ab")},
        )
        self.at = "a"

    def wait_up(self, timeout=400):
        self.pair.hosts["a"].wait_for(r"^web\| .*GT UP", timeout=timeout)
        self.check_console()

    def client(self, mode, *options):
        client = Client(self.lan.enter, mode, ADDRESS, *options)
        self.clients.append(client)
        return client

    def ssh(self, command):
        """Run a command in the guest over its LAN, as anybody would; returns its output."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60")
        # ssh wants a key that only its owner can read, and the one in build/ may be somebody else's.
        key = os.path.join(self.run.dir, "ssh_key")
        with open(os.path.join(DEBIAN, "ssh_key"), "rb") as f, open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as g:
            g.write(f.read())
        done = subprocess.run(
            [*self.lan.enter, "ssh", *(x for o in options for x in ("-o", o)), "-i", key, f"root@{ADDRESS}", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"ssh: {command} ended with {done.returncode}: {text}"
        return text

    # The console

    def lines(self):
        """What the guest said on either host, in no order."""
        return [line for lines in self.pair.console("web").values() for line in lines]

    def check_console(self):
        """No sign of trouble; no heartbeat missing or doubled, and its clock goes on. Returns the last beat."""
        beats = []
        for line in self.lines():
            assert "GT BAD" not in line and "GT FAIL" not in line, line
            assert not re.search(r"Call Trace|soft lockup|detected stall|Kernel panic|I/O error", line), line
            beat = BEAT.search(line)
            if beat:
                seq, s, ns, clock, late, bad, _, _, tx = beat.groups()
                assert bad == "0", line
                beats.append((int(seq), int(s) * 10**9 + int(ns), clock, int(late), int(tx)))
        beats.sort()
        for number, (one, two) in enumerate(zip(beats, beats[1:]), 1):
            assert (one[0], two[0]) == (number, number + 1), f"heartbeat {number + 1} is missing or doubled"
            assert one[1] < two[1], f"CLOCK_MONOTONIC went back after heartbeat {number}"
            # Early on the kernel is still choosing.
            assert one[2] == two[2] or number < 5, f"the clocksource was {one[2]}, and is {two[2]} from heartbeat {number + 1} on"
        return beats[-1] if beats else None

    def wait_beats(self, count=2, timeout=120):
        """So many more heartbeats, wherever it is."""
        had = self.check_console()[0]
        wait_until(lambda: self.check_console()[0] >= had + count, f"heartbeats after {had}", timeout)

    def type(self, text):
        self.pair.q[self.at].type("web", text)

    # Moves

    def migrate(self, **arguments):
        """Begin a move to the other host; returns its name."""
        to = "b" if self.at == "a" else "a"
        # The last freeze of a busy guest takes long on a host that is emulated.
        self.pair.migrate("web", to, verify="fold", max_rounds=8, downtime_limit=2000, **arguments)
        return to

    def arrived(self, to, timeout=240):
        """Wait until the move has succeeded, and the guest goes on; returns the source's query-migrate."""
        info = self.pair.wait_moved("web", self.at, timeout=timeout)
        assert info["status"] == "completed", info
        self.pair.check_at("web", to)
        self.at = to
        self.wait_beats()
        return info

    def move(self):
        """One move, and what the clients saw of it."""
        since, source = time.monotonic(), self.at
        info = self.arrived(self.migrate())
        for client in self.clients:
            client.wait_progress(60)
        gaps = ", ".join(f"{c.name.split()[0]} {c.longest_gap(since):.2f}" for c in self.clients)
        print(
            f"{source} to {self.at}: {info['total-time']} ms, down {info['downtime-us'] / 1000:.0f} ms, {info['round']} rounds,"
            f" {info['ram']['transferred'] >> 20} MiB; longest silence in s: {gaps}",
            flush=True,
        )
        return info

    # The end

    def finish(self, clients=True):
        """End the clients, power off by the guest's own means, look at what is on its disk."""
        acknowledged = 0
        for client in self.clients:
            end = client.finish()
            print(f"{client.name}: {end}", flush=True)
            acknowledged = max(acknowledged, end.get("last", 0))
        self.check_console()
        self.type("sh poweroff\n")
        wait_until(lambda: self.pair.q[self.at].status("web") == "shutdown", "power off", 120)
        acknowledged = max(acknowledged, self.acknowledged())
        self.server.stop()
        check_filesystem(self.image)
        if acknowledged:
            print(f"{check_transactions(self.image, acknowledged)} transactions on the disk, {acknowledged} acknowledged")

    def acknowledged(self):
        """The last transaction that the console tells of."""
        return max((int(n) for line in self.lines() for n in re.findall(r"GT TX (\d+)$", line)), default=0)

    def close(self):
        for client in self.clients:
            client.kill()
        self.server.kill()
        self.lan.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def watch(debian):
    """A stream, requests, and the transactions; each has heard from the guest when this returns."""
    debian.client("stream", "--kib", 64)
    debian.client("echo", "--period", 100)
    debian.client("tx")
    for client in debian.clients:
        client.wait_connected(120)
        client.wait_progress(120)


def moves(run, count, **options):
    with Debian(run, **options) as debian:
        debian.wait_up()
        print(debian.ssh("uname -sr; nproc; systemctl --failed --no-legend; cat /sys/block/vda/serial"), flush=True)
        assert debian.client("banner").wait_end(60)["ok"]
        debian.clients.clear()
        watch(debian)
        for _ in range(count):
            debian.move()
        debian.ssh("true")
        debian.finish()


@test(timeout=1500, cores=2)
def debian_moves(run):
    """Two vCPUs, there and back, under a stream, requests and transactions: nothing breaks, nothing is lost."""
    moves(run, 2)


@test(timeout=3600, cores=2)
def debian_soak(run):
    """The same ten times, with the disk on qemu-nbd over TLS."""
    moves(run, 10, kind="qemu-nbd", tls=True)


@test(timeout=3600, cores=2)
def debian_stress(run):
    """Four vCPUs under stress-ng through ten moves: no error, no lock-up, no stall, the clock stays trusted."""
    stress = "--cpu,2,--vm,1,--vm-bytes,24M,--timer,1,--membarrier,1,--futex,1,--switch,1,--verify,--metrics-brief,--timeout,0"
    with Debian(run, vcpus=4, memory="320M", cmdline="", cpus=2) as debian:
        debian.wait_up(600)
        assert debian.ssh("nproc").strip() == "4"
        debian.type(f"stress {stress}\n")
        wait_until(lambda: any("GT STRESS stress-ng: info" in line for line in debian.lines()), "stress-ng runs", 120)
        for _ in range(10):
            debian.move()
        debian.type("sh pkill -INT -o stress-ng\n")
        ended = wait_until(
            lambda: [line for line in debian.lines() if "GT STRESS exit=" in line], "stress-ng ends", 300
        )
        said = [line for line in debian.lines() if "GT STRESS" in line]
        print("\n".join(said))
        assert ended[0].endswith("exit=0"), ended
        assert not any("fail" in line.lower() and "failed: 0" not in line for line in said), said
        debian.finish()


PHASES = ("connect", "precopy", "freeze", "commit", "resume")


def kill_in(debian, phase):
    """Kill the disk server when a move is in that phase (or just past it), and bring it back; the move may fail."""
    source, to = debian.at, debian.migrate()

    def reached():
        info = debian.pair.q[source].call("query-migrate", guest="web")
        return info["phase"] == phase or info["status"] in ("completed", "failed", "cancelled") or PHASES.index(
            phase
        ) < (PHASES.index(info["phase"]) if info["phase"] in PHASES else -1)

    deadline = time.monotonic() + 120
    while not reached() and time.monotonic() < deadline:
        pass
    debian.server.kill()
    time.sleep(2)
    debian.server.start()
    info = debian.pair.wait_moved("web", source, timeout=240)
    at = to if info["status"] == "completed" else source
    debian.pair.check_at("web", at, timeout=120)
    debian.at = at
    print(f"disk server killed in {phase}: the move {info['status']}, {info.get('error-desc', '')}", flush=True)
    tx = debian.acknowledged()
    wait_until(lambda: debian.acknowledged() > tx + 5, f"transactions after {tx}", 180)
    debian.wait_beats()


def disk_faults(run, **options):
    with Debian(run, vcpus=1, **options) as debian:
        debian.wait_up()
        watch(debian)
        # Away for a while without a move, too.
        debian.server.kill()
        time.sleep(5)
        debian.server.start()
        tx = debian.acknowledged()
        wait_until(lambda: debian.acknowledged() > tx + 5, f"transactions after {tx}", 180)
        for phase in PHASES:
            kill_in(debian, phase)
        debian.finish()


@test(timeout=1800, cores=2)
def debian_disk_faults(run):
    """The disk server dies in each phase of a move and comes back: nothing that was acknowledged is lost."""
    disk_faults(run, kind="nbd-server")


@test(timeout=1800, cores=2)
def debian_disk_faults_tls(run):
    """The same with TLS."""
    disk_faults(run, kind="nbdkit", tls=True)


@test(timeout=900, cores=2)
def debian_power_cut(run):
    """Host and disk server lose power at once, unflushed data included: what was acknowledged is there all the same."""
    with Debian(run, vcpus=1, volatile=True) as debian:
        debian.wait_up()
        watch(debian)
        tx = debian.acknowledged()
        wait_until(lambda: debian.acknowledged() > tx + 100, "a hundred transactions", 300)
        acknowledged = max(c.latest("last") for c in debian.clients)
        debian.server.kill()
        debian.pair.hosts["a"].stop()
        check_filesystem(debian.image, unmounted=False)
        print(f"{check_transactions(debian.image, acknowledged)} transactions on the disk, {acknowledged} acknowledged")
