# SPDX-License-Identifier: MIT
"""What suites share: a control client that is not the godwit command, and a pair of hosts."""
import base64
import json
import os
import re
import shutil
import socket
import ssl
import time

from bench import PATIENCE, PATIENT

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUESTS = os.path.join(TOP, "build", "guests")
ENDED = ("completed", "failed", "cancelled")


class QmpError(Exception):
    """The host answered with an error."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error_class, self.desc = error["class"], error["desc"]


def certificate(pki, name, role, **how):
    """(crt, key), made once per test."""
    base = os.path.join(pki.folder, f"{name}-{role}")
    return (base + ".crt", base + ".key") if os.path.exists(base + ".crt") else pki.issue(name, role, **how)


def tls_context(server, ca, crt=None, key=None, alpn="godwit-qmp/1"):
    """TLS 1.3 with certificates on both ends, as in docs/PROTOCOL.md."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    if crt:
        context.load_cert_chain(crt, key)
    context.set_alpn_protocols([alpn])
    return context


def wait_until(condition, what, timeout=60):
    """The first true value of condition()."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}"
        time.sleep(0.05)


class Qmp:
    """A control session with a host: as an admin, or as another host."""

    def __init__(self, run, host, host_as=None, timeout=60 * PATIENCE):
        files = certificate(run.pki, host_as or "tester", "host" if host_as else "admin")
        context = tls_context(False, run.pki.ca_crt, *files)
        raw = socket.create_connection(("127.0.0.1", host.port), timeout)
        self.sock = context.wrap_socket(raw, server_hostname=host.name)
        self.file, self.last = self.sock.makefile("rb"), 0
        self.greeting = self._read()["QMP"]

    def _read(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError("the host closed the control session")
        return json.loads(line)

    def call(self, command, **arguments):
        """The answer to a command; QmpError if it is an error. _ in names of arguments is -."""
        self.last += 1
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        request = {"execute": command, "arguments": arguments, "id": self.last}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "event" in answer:
                continue
            assert answer["id"] == self.last, answer
            if "error" in answer:
                raise QmpError(answer["error"])
            return answer["return"]

    def guest(self, name):
        """The guest's entry on this host, or None."""
        return next((g for g in self.call("query-guests") if g["name"] == name), None)

    def status(self, name):
        entry = self.guest(name)
        return entry["status"] if entry else "gone"

    def free(self):
        return self.call("query-host")["memory-free"]

    def type(self, guest, text):
        data = base64.b64encode(text.encode()).decode()
        self.call("ringbuf-write", device=guest, data=data, format="base64")


def guest(name, kernel, args, memory="8M", autostart="yes", more=""):
    """A section of godwit.conf."""
    return (
        f"[guest {name}]\nmemory={memory}\nkernel={kernel}.elf\ncmdline={args}\n"
        f"autostart={autostart}\nconsole=serial\n{more}"
    )


def images(*names):
    """Files for guest()."""
    return {f"{name}.elf": os.path.join(GUESTS, f"{name}.elf") for name in names}


class Pair:
    """Hosts a and b, running, each with a control session; and a state folder for the godwit command.

    guests   [guest ...] sections of each host's godwit.conf, {"a": text, "b": text}
    files    what those need in \\godwit
    options  of the machines, {"a": {...}}; see bench.Host
    """

    def __init__(self, run, guests, files=None, options=None):
        self.run, self.q, self.hosts, self.guests = run, {}, {}, guests
        self.files, self.options = files or {}, options or {}
        for name, role in (("a", "host"), ("b", "host"), ("tester", "admin")):
            certificate(run.pki, name, role)
        for name in "ab":
            self.start(name)
        for name in "ab":
            self.connect(name)
        self.links = {name: run.link(self.hosts[name]) for name in "ab"}
        self.dir = os.path.join(run.dir, "state")
        os.makedirs(os.path.join(self.dir, "identities"))
        shutil.copy(run.pki.ca_crt, os.path.join(self.dir, "ca.crt"))
        self.identity("tester", "admin")
        self.hosts_ini()

    def start(self, name):
        """Switch one machine on (anew)."""
        conf = f"[host]\nname={name}\n[network]\nmode=static\naddress=10.0.2.15/24\ngateway=10.0.2.2\n"
        crt, key = certificate(self.run.pki, name, "host")
        keys = {"ca.crt": self.run.pki.ca_crt, "host.crt": crt, "host.key": key}
        esp = self.run.esp(name, conf + self.guests.get(name, ""), {**keys, **self.files}, keys=False)
        self.hosts[name] = self.run.host(name, esp, **self.options.get(name, {}))

    def connect(self, name):
        host = self.hosts[name]
        host.wait_for(r"control port \d+ open", timeout=90)
        self.q[name] = Qmp(self.run, host)

    def identity(self, name, role, **how):
        """A person's certificate in the state folder of the godwit command."""
        for source, end in zip(certificate(self.run.pki, name, role, **how), ("crt", "key")):
            shutil.copy(source, os.path.join(self.dir, "identities", f"{name}.{end}"))

    def hosts_ini(self, **uris):
        """hosts.ini, with other URIs under which the hosts are to reach each other if given."""
        with open(os.path.join(self.dir, "hosts.ini"), "w", encoding="ascii") as f:
            for name, host in self.hosts.items():
                peer = uris.get(name, self.links[name].uri).removeprefix("tcp:")
                f.write(f"[{name}]\naddress=127.0.0.1:{host.port}\npeer-address={peer}\n")

    def godwit(self, *args, **options):
        return self.run.godwit(*args, *PATIENT, env={"GODWIT_DIR": self.dir, "GODWIT_IDENTITY": "tester"}, **options)

    def migrate(self, guest, to, uri=None, **arguments):
        """Begin a move by QMP."""
        source = "b" if to == "a" else "a"
        arguments = {"verify": "full", **arguments}
        self.q[source].call("migrate", guest=guest, host=to, uri=uri or self.links[to].uri, **arguments)

    def wait_moved(self, guest, source, statuses=ENDED, timeout=120):
        """query-migrate of the source once the move has one of these statuses."""

        def look():
            info = self.q[source].call("query-migrate", guest=guest)
            return info if info["status"] in statuses else None

        return wait_until(look, f"move of {guest} is {' or '.join(statuses)} on {source}", timeout)

    def move(self, guest, to, uri=None, **arguments):
        """A whole move that has to succeed; returns the source's query-migrate."""
        source = "b" if to == "a" else "a"
        epoch = self.q[source].guest(guest)["epoch"]
        self.migrate(guest, to, uri, **arguments)
        info = self.wait_moved(guest, source)
        assert info["status"] == "completed", info
        assert info["hash-verified"] and info["epoch"] == epoch + 1, info
        self.check_at(guest, to, epoch=epoch + 1)
        return info

    def check_at(self, guest, at, status="running", epoch=None, timeout=60):
        """The guest is on that host and on no other. What is left of a move there may take a moment to go."""
        other = "b" if at == "a" else "a"

        def gone():
            there = self.q[other].guest(guest)
            return not there or (there["status"] in ("postmigrate", "prelaunch") and there["owner"] != other)

        wait_until(gone, f"guest {guest} is only on {at}", timeout)
        here = self.q[at].guest(guest)
        assert here and here["status"] == status and here["owner"] == at, (at, here)
        assert epoch is None or here["epoch"] == epoch, (epoch, here)

    def free(self):
        return {name: self.q[name].free() for name in self.q}

    def check_memory(self, before, slack=256 << 10, timeout=30):
        """All memory is back, but for what heaps have grown by (they do not shrink); connections need a moment to go."""
        try:
            wait_until(lambda: all(self.q[n].free() >= before[n] - slack for n in self.q), "", timeout)
        except AssertionError:
            raise AssertionError(f"memory is missing: free {before}, now {self.free()}") from None

    def console(self, guest):
        """All lines of a guest with console=serial, from the logs of both hosts."""
        return {
            name: re.findall(rf"^{guest}\| (.*)\n", host.serial(), re.M)
            for name, host in self.hosts.items()
        }

    def check_sequence(self, guest):
        """The lines of a `dirty` guest or of one in a loop: every number once on one of the hosts, in order of its own time, nothing BAD.

        A guest that ran twice, or was set back, would say something twice. Returns how many there are.
        """
        lines = []
        for host, texts in self.console(guest).items():
            for text in texts:
                assert "BAD" not in text and "FAIL" not in text, f"{guest} on {host}: {text}"
                found = re.match(r"(?:DIRTY|LOOP) seq=(\d+) \w+=\d+ tsc=(\d+) chk=OK$", text)
                if found:
                    lines.append((int(found.group(1)), int(found.group(2))))
        lines.sort()
        numbers = [seq for seq, _ in lines]
        wrong = [n for n in range(1, len(lines) + 1) if numbers[n - 1] != n][:1]
        assert not wrong, f"{guest}: line {wrong[0]} is missing or doubled: {numbers}"
        assert all(one[1] < two[1] for one, two in zip(lines, lines[1:])), f"{guest}: its time went back"
        return len(lines)

    def wait_sequence(self, guest, more=2):
        """The `dirty` guest goes on, and all that it said is right."""
        had = self.check_sequence(guest)
        wait_until(lambda: self.check_sequence(guest) >= had + more, f"guest {guest} goes on after line {had}")
