#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows a live migration: two emulated hosts, a Linux guest that counts, `godwit migrate`, and a verdict.

`make demo` runs this after it has built everything. Exit code 0: the guest moved and nothing of it was lost.
Logs stay in build/demo/.
"""
import argparse
import ctypes
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TOP, "tools", "bench")]
import bench
import cluster
import verdict
from screen import Screen, SideBySide

BUILD = os.path.join(TOP, "build")
DIR = os.path.join(BUILD, "demo")
PARTS = {
    "vmlinuz": os.path.join(BUILD, "linux", "vmlinuz"),
    "initrd.cpio": os.path.join(BUILD, "guests", "initrd.cpio"),
}
BEATS_BEFORE, BEATS_AFTER = 30, 40
DIRTY_MIB_S = 4

# cryptomgr.notests skips self-tests of the guest kernel's crypto library: most of its boot time in an emulator.
GUEST_CONF = f"""[guest web]
memory = 128M
kernel = vmlinuz
initrd = initrd.cpio
cmdline = console=ttyS0 cryptomgr.notests hb.dirty_mb_s={DIRTY_MIB_S}
autostart = yes
console = serial
"""


class Failed(Exception):
    """The demo cannot go on; the text says why."""


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Command:
    """A godwit command that runs while the demo goes on. lines: what it has printed, current: its live line."""

    def __init__(self, args, env, columns):
        """columns: width of the terminal that it shall believe in; 0 = a pipe."""
        self.lines, self.current, self.rest = [], "", b""
        if columns:
            self.fd, out = pty.openpty()
            fcntl.ioctl(out, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        else:
            self.fd, out = os.pipe()
        os.set_blocking(self.fd, False)
        self.process = subprocess.Popen(
            [cluster.GODWIT, *args],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=die_with_parent,
        )
        os.close(out)

    def poll(self):
        """Take in new output; returns the lines that were finished."""
        try:
            while data := os.read(self.fd, 65536):
                self.rest += data
        except OSError:  # nothing now, or (a terminal) the other end is closed
            pass
        text = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", self.rest).replace(b"\r\n", b"\n")
        *whole, last = text.split(b"\n")
        self.rest = last.rpartition(b"\r")[2] if not last.endswith(b"\r") else last
        # A live line is drawn over: what counts is what stands behind the last return.
        shown = [w.rpartition(b"\r")[2].decode(errors="replace") for w in whole]
        self.current = self.rest.decode(errors="replace")
        self.lines += shown
        return shown

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Demo:
    """The two hosts and the story."""

    def __init__(self, screen):
        self.screen = screen
        self.view = SideBySide(screen)
        self.cluster, self.hosts, self.command = None, {}, None
        self.shown = {"A": 0, "B": 0}
        self.showing = False

    def prepare(self):
        """Identities and boot disks."""
        self.cluster = cluster.Cluster(DIR)
        # Host a reaches b through a link that counts; b never has to reach a.
        b = self.cluster.host("b", link=True)
        self.hosts = {"A": self.cluster.host("a", GUEST_CONF, PARTS), "B": b}
        self.screen.event("a certificate authority made, hosts a and b enrolled with it")

    # What goes on

    def log(self, name):
        """The whole lines of a host's serial log."""
        text = self.hosts[name].serial()
        return text[: text.rfind("\n") + 1]

    def watch(self):
        """Take in what is new on both consoles and from the command, and show it."""
        for name, host in self.hosts.items():
            text = self.log(name)
            fatal = re.search(bench.FATAL, text, re.M)
            if fatal or not host.alive():
                raise Failed(f"host {name} ended: {fatal[0] if fatal else host.last_words()}")
            if not self.showing:
                continue
            found = verdict.beats(name, text)
            for beat in found[self.shown[name] :]:
                self.view.add(beat)
            self.shown[name] = len(found)
        if self.command:
            for line in self.command.poll():
                if not self.screen.tty:
                    self.screen.event("    " + line.rstrip())
            lines = self.command.lines + ([self.command.current] if self.command.current else [])
            self.view.output = [("bold", "$ godwit migrate web b")] + [(None, x) for x in lines]

    def wait(self, what, ready, timeout, status=None):
        """Watch until ready(); Failed after timeout seconds."""
        end = time.monotonic() + timeout
        while True:
            self.watch()
            if ready():
                return
            if time.monotonic() > end:
                raise Failed(f"{what} did not happen in {timeout} s")
            if status:
                self.screen.status(status())
            else:
                self.view.draw()
            time.sleep(0.1)

    def boot_status(self):
        lines = re.findall(r"^web\| (.*\S)", self.log("A"), re.M)
        return "Linux boots on host A: " + (lines[-1] if lines else "first instructions")

    def play(self):
        screen, hosts = self.screen, self.hosts
        for host in hosts.values():
            host.start()
        kind = "Bochs" if hosts["A"].emulator == "bochs" else "QEMU/KVM"
        screen.event(f"power on: two emulated PCs ({kind}), firmware starts, then Godwit")
        for name in hosts:
            self.wait(
                f"the start of host {name}",
                lambda n=name: re.search(r"^\[.*hv: ready", self.log(n), re.M),
                180,
                lambda: "the hosts start (firmware, then Godwit)",
            )
            screen.event(f"host {name} is up; nothing but Godwit runs on it", name.lower())
        self.wait(
            "the guest's first heartbeat",
            lambda: verdict.beats("A", self.log("A")),
            300,
            self.boot_status,
        )
        screen.event("the guest 'web' has booted on host A and its heart beats", "a")
        self.say_view()
        self.view.header()
        self.showing = True
        self.wait("30 heartbeats", lambda: self.shown["A"] >= BEATS_BEFORE, 120)
        self.move()
        self.wait(
            f"{BEATS_AFTER} heartbeats on B", lambda: self.shown["B"] >= BEATS_AFTER, 120
        )
        self.view.finish()

    def say_view(self):
        self.screen.say()
        self.screen.tell(
            "Below: the guest's own console as each host sees it. A beat has its number, the time since boot"
            " on the guest's clock, and whether all memory that it has checked so far was right."
        )
        self.screen.say()

    def move(self):
        """Runs the real command while the view goes on."""
        if not self.screen.tty:
            self.screen.event("$ godwit migrate web b", "bold")
        columns = shutil.get_terminal_size((80, 24)).columns if self.screen.tty else 0
        self.command = Command(["migrate", "web", "b"], self.cluster.env(), columns)
        self.wait("the end of the move", lambda: self.command.process.poll() is not None, 240)
        self.watch()
        code = self.command.process.returncode
        if code:
            raise Failed(f"'godwit migrate web b' ended with exit code {code}: {' '.join(self.command.lines[-3:])}")

    # The verdict

    def figures(self):
        """(faults, query-migrate's answer of host a, who owns the guest in the hosts' own words)."""
        faults = []
        moved = self.cluster.query("migrate-status", "web", "--host", "a")
        hosts = {h["name"]: h for h in self.cluster.query("status")["hosts"]}
        on = {
            name: next((g for g in host.get("guests", []) if g["name"] == "web"), None)
            for name, host in hosts.items()
        }
        if moved["status"] != "completed":
            faults.append(f"host a says that the move is '{moved['status']}'")
        if not moved.get("hash-verified"):
            faults.append("the memory of the guest was not compared (hash-verified is false)")
        if not on["b"] or not on["b"]["running"] or on["b"]["owner"] != "b":
            faults.append(f"host b does not run the guest as its owner: {on['b']}")
        if on["a"] and (on["a"]["running"] or on["a"]["owner"] != "b"):
            faults.append(f"host a does not say that the guest is b's: {on['a']}")
        return faults, moved, on

    def judge(self):
        """Prints what was found; returns the faults."""
        faults, moved, on = self.figures()
        link = self.hosts["B"].link.bytes
        self.watch()
        self.close()
        seen, facts = verdict.judge(self.log("A"), self.log("B"))
        faults = seen + faults
        if not facts:
            return faults
        ram, first, last = moved["ram"], facts["first"], facts["last"]
        say = self.screen.say
        say()
        say("What happened", "bold")
        self.screen.tell(
            f"The guest worked on host A up to beat {last.seq}. While it worked, its memory went over to host B in"
            f" {moved['round'] - 1} rounds, then it was frozen for {moved['downtime-us'] / 1000:.0f} ms, the rest"
            f" went over, and it went on on host B with beat {first.seq}. It was not restarted. Its clock stands"
            f" still while it is frozen, so for the guest beat {first.seq} came {facts['gap_s']:.3f} s after beat"
            f" {last.seq}."
        )
        say()
        say("What this program checked in both hosts' logs and by asking both hosts", "bold")
        total = f"{facts['beats_a']} on A + {facts['beats_b']} on B"
        for fine, text in (
            (not any("heartbeat" in f for f in seen), f"heartbeats: {total}, none missing, none twice"),
            (not any("clock" in f for f in seen), "the guest's clocks never went back"),
            (
                not any("memory" in f or "HB FAIL" in f for f in seen),
                f"guest's own memory checks: all OK, while it rewrote {last.dirty} MiB before and "
                f"{verdict.beats('B', self.log('B'))[-1].dirty - last.dirty} MiB after",
            ),
            (moved.get("hash-verified"), f"memory hash the same on both hosts: {moved['hash']}"),
            (
                not any(f.startswith("host") for f in faults),
                f"owner: host {on['b']['owner'] if on['b'] else '?'} (epoch {moved['epoch']}); host a says that it"
                f" is gone ({on['a']['status'] if on['a'] else 'no such guest'})",
            ),
        ):
            say(f"  {'ok ' if fine else 'BAD'}  {text}", "good" if fine else "bad")
        say()
        slow = self.hosts["A"].emulator == "bochs"
        say("Figures" + (" (seconds of the emulated hosts)" if slow else ""), "bold")
        for name, value in (
            ("whole move", f"{moved['total-time-us'] / 1e6:.1f} s"),
            ("guest frozen", f"{moved['downtime-us'] / 1000:.0f} ms"),
            (
                "largest gap between beats",
                f"{facts['largest_gap_s']:.3f} s on the guest's clock (0.100 s is normal)",
            ),
            (
                "rounds",
                f"{moved['round']} (the last one is the freeze); {ram['normal']} pages sent,"
                f" {ram['pages-resent']} of them again; {ram['duplicate']} zero",
            ),
            (
                "bytes over the link",
                f"{ram['transferred'] / 1e6:.1f} MB out of host A (TLS 1.3); the link itself counted"
                f" {sum(link.values()) / 1e6:.1f} MB",
            ),
        ):
            say(f"  {name + ':':<26} {value}")
        return faults

    def close(self):
        """Everything off. Harmless when it is."""
        if self.command:
            self.command.stop()
        if self.cluster:
            self.cluster.stop()


def introduce(screen):
    screen.say("Godwit: a running Linux guest moves from one host to another", "bold")
    screen.say()
    screen.tell(
        "host A and host B are two emulated PCs. Each runs nothing but Godwit, a hypervisor that takes the"
        " place of an operating system. On host A runs one guest, 'web': Debian's stock Linux kernel with"
        " 128 MiB of memory. It prints ten numbered heartbeats a second, rewrites"
        f" {DIRTY_MIB_S} MiB of its memory every second and checks that all of it is as it left it."
    )
    screen.tell(
        "Then the operator says 'godwit migrate web b', and the guest goes to host B without being stopped."
    )
    screen.say()


def run(screen):
    """The demo; returns faults."""
    demo = Demo(screen)
    try:
        introduce(screen)
        emulator, reason = bench.pick_emulator()
        demo.prepare()
        if emulator == "bochs":
            screen.event(f"emulator: Bochs, because {reason}; Godwit's time is emulated time")
        screen.status("checking the emulator (once per machine)")
        bench.selfcheck()
        demo.play()
        return demo.judge()
    except (bench.BenchError, Failed) as e:
        return [str(e)]
    finally:
        demo.close()


def interrupted(_number, _frame):
    raise KeyboardInterrupt


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    bench.enter_netns()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    screen = Screen()
    try:
        faults = run(screen)
    except KeyboardInterrupt:
        screen.keep()
        screen.say("\ndemo: interrupted; both hosts are off")
        return 130
    screen.say()
    screen.say("Logs: build/demo/a.serial.log and b.serial.log (the hosts and the guest's console)")
    for fault in faults[1:]:
        screen.say(f"  also: {fault}", "bad")
    if faults:
        screen.say(f"DEMO FAILED: {faults[0]}", "bad")
        return 1
    screen.say(f"DEMO PASSED in {screen.seconds():.0f} s", "good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
