# SPDX-License-Identifier: MIT
"""What the single-host suites share: godwit.conf texts, an operator with certificates, the control protocol by hand."""
import base64
import json
import os
import re
import shutil
import socket
import ssl
import sys
import time

import bench

sys.path.insert(0, os.path.join(bench.TOP, "guest-tests"))
GUESTS = os.path.join(bench.BUILD, "guests")
LINUX = os.path.join(bench.BUILD, "linux")


def conf(*guests, name="a", more=""):
    """godwit.conf of a host with the bench's address. guests: see guest(); more: other sections."""
    return (
        f"[host]\nname={name}\n\n[network]\nmode=static\naddress={bench.GUEST_IP}/24\n"
        f"gateway={bench.BENCH_IP}\n\n" + more + "".join(guests)
    )


def guest(name, kernel, memory="16M", modules=(), **keys):
    """A [guest NAME] section. Keys as in godwit.conf, with _ for -; one that is None is left out."""
    keys = {"kernel": kernel, "memory": memory, "autostart": "yes", "debug_exit": "yes", **keys}
    lines = [f"{k.replace('_', '-')}={v}\n" for k, v in keys.items() if v is not None]
    return f"[guest {name}]\n" + "".join(lines) + "".join(f"module={m}\n" for m in modules) + "\n"


def until(check, timeout, what):
    """Call check() until it returns something true, and return that. what: text, or a function that makes it."""
    timeout *= bench.PATIENCE
    deadline = time.monotonic() + timeout
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > deadline:
            raise AssertionError(f"in {timeout} s not: {what() if callable(what) else what}")
        time.sleep(0.2)


class Refused(AssertionError):
    """The host answered with an error. kind: its class, desc: its text."""

    def __init__(self, error):
        super().__init__(f"{error.get('class')}: {error.get('desc')}")
        self.kind, self.desc = error.get("class"), error.get("desc", "")


class Closed(Exception):
    """The host closed the connection."""


class Control:
    """A control session by hand: no Godwit code at this end."""

    def __init__(self, port, ca, crt=None, key=None, host="a", alpn="godwit-qmp/1", timeout=180):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(ca)
        if crt:
            context.load_cert_chain(crt, key)
        if alpn:
            context.set_alpn_protocols([alpn])
        plain = socket.create_connection(("127.0.0.1", port), timeout)
        self.tls = context.wrap_socket(plain, server_hostname=host)
        self.buffer, self.events, self.consoles, self.number = b"", [], {}, 0
        self.greeting = self.read()

    def send(self, data):
        """Send a request (dict) or raw bytes."""
        self.tls.sendall(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")

    def read(self):
        """The next object from the host; Closed at the end."""
        while b"\n" not in self.buffer:
            try:
                got = self.tls.recv(65536)
            except (ssl.SSLEOFError, ConnectionResetError) as e:
                raise Closed(str(e)) from None
            if not got:
                raise Closed("by the host")
            self.buffer += got
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def _event(self, event):
        self.events.append(event)
        if event["event"] == "CONSOLE":
            data = event["data"]
            text = self.consoles.setdefault(data["guest"], bytearray())
            del text[data["offset"] :]
            text += base64.b64decode(data["data"])

    def answer(self):
        """The next object that is not an event."""
        while True:
            got = self.read()
            if "event" not in got:
                return got
            self._event(got)

    def call(self, command, **arguments):
        """What the command returns; Refused if it fails. _ in names of arguments stands for -."""
        self.number += 1
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.send({"execute": command, "arguments": arguments, "id": self.number})
        got = self.answer()
        assert got.get("id") == self.number, got
        if "error" in got:
            raise Refused(got["error"])
        return got["return"]

    def guests(self):
        """{name: its entry of query-guests}"""
        return {g["name"]: g for g in self.call("query-guests")}

    def console(self, name):
        """The guest's console so far, as text; the first call attaches it."""
        if name not in self.consoles:
            self.consoles[name] = bytearray()
            self.call("console-attach", guest=name, history=True)
        self.call("query-version")  # events come in between
        return bytes(self.consoles[name]).decode(errors="replace").replace("\r", "")

    def type(self, name, text):
        """Type on the guest's console."""
        data = base64.b64encode(text.encode()).decode()
        self.call("ringbuf-write", device=name, data=data, format="base64")

    def wait_console(self, name, pattern, timeout=60):
        """Wait for a regular expression (multi-line mode) on the guest's console; returns the match."""
        return until(
            lambda: re.search(pattern, self.console(name), re.M),
            timeout,
            lambda: f"{pattern!r} on the console of {name}, which ends with {self.console(name)[-400:]!r}",
        )

    def wait_status(self, name, wanted, timeout=60):
        """Wait until the guest's status is the one wanted; returns its entry of query-guests."""

        def check():
            entry = self.guests()[name]
            return entry if entry["status"] == wanted else None

        return until(check, timeout, lambda: f"{name} {wanted}: {self.guests()[name]}")

    def slowest_answer(self, count):
        """Of so many questions, in microseconds of the machine's own time. The least of several series: a machine that does
        not wait for the wall clock runs on while this process does not, and that is in it, too."""

        def series():
            times = [self.call("query-host")["uptime-us"] for _ in range(count + 1)]
            return max(two - one for one, two in zip(times, times[1:]))

        return min(series() for _ in range(5))

    def close(self):
        self.tls.close()


class Operator:
    """Somebody with a certificate, a state folder for the godwit command, and the addresses of the hosts."""

    def __init__(self, run, *hosts, name="alice", role="admin"):
        self.run, self.hosts = run, {h.name: h for h in hosts}
        self.ca, (self.crt, self.key) = run.pki.ca_crt, run.pki.issue(name, role)
        self.dir = os.path.join(run.dir, "op-" + name)
        os.makedirs(os.path.join(self.dir, "identities"), exist_ok=True)
        for source, target in (
            (self.ca, "ca.crt"),
            (self.crt, f"identities/{name}.crt"),
            (self.key, f"identities/{name}.key"),
        ):
            shutil.copy(source, os.path.join(self.dir, target))
        with open(os.path.join(self.dir, "hosts.ini"), "w", encoding="ascii") as f:
            for h in hosts:
                f.write(f"[{h.name}]\naddress=127.0.0.1:{h.port}\npeer-address={bench.BENCH_IP}:{h.port}\n")

    def godwit(self, command, *args, **options):
        """Run `godwit COMMAND` with this state folder (options: see Run.godwit)."""
        return self.run.godwit(command, "--dir", self.dir, *bench.PATIENT, *args, **options)

    def status(self, host="a"):
        """(query-host, {guest: query-guests entry}) of a host as `godwit status --json` shows them."""
        out = json.loads(self.godwit("status", "--json", host).stdout)
        entry = next(h for h in out["hosts"] if h["name"] == host)
        assert entry["answered"], entry
        return entry["host"], {g["name"]: g for g in entry["guests"]}

    def control(self, host="a", **options):
        """A session by hand with this identity."""
        return Control(self.hosts[host].port, self.ca, self.crt, self.key, host=host, **options)
