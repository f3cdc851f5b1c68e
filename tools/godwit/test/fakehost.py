# SPDX-License-Identifier: MIT
"""A Godwit host as far as the control port shows it: TLS 1.3, then one JSON object per line."""
import base64
import contextlib
import json
import os
import select
import socket
import ssl
import threading


class QmpError(Exception):
    """What a command handler raises to answer with an error."""

    def __init__(self, cls, desc):
        super().__init__(desc)
        self.cls, self.desc = cls, desc


class Drop(Exception):
    """Raised by a handler: end this connection without an answer."""


def guest(name, host, **more):
    entry = {"name": name, "number": 1, "os-type": "linux", "status": "running", "running": True,
             "vcpus": 1, "devices": 4, "nics": 0, "memory": 128 << 20, "owner": host, "epoch": 1,
             "uptime-us": 3_723_000_000, "exits": 12345, "exit-reason": ""}
    entry.update(more)
    return entry


class FakeHost:
    """Listens on a free port of 127.0.0.1. `handlers` maps a command to a function(args)."""

    def __init__(self, env, name, esp=None, guests=(), max_version=None, alpn="godwit-qmp/1",
                 client_ca=None, greeting=None):
        self.env, self.name = env, name
        esp = esp or env.enroll(name)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if max_version:
            self.context.maximum_version = max_version
        else:
            self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.load_cert_chain(os.path.join(esp, "host.crt"), os.path.join(esp, "host.key"))
        self.context.load_verify_locations(client_ca or os.path.join(esp, "ca.crt"))
        self.context.verify_mode = ssl.CERT_REQUIRED
        if alpn:
            self.context.set_alpn_protocols([alpn])
        self.greeting = greeting
        self.guests = list(guests)
        self.info = {"name": name, "version": "0.1.0", "cpu": "Fake CPU @ 2.00GHz",
                     "vmx": {"usable": True, "missing": [], "remedy": ""}, "tsc-khz": 2000000,
                     "memory-total": 2 << 30, "memory-free": 1 << 30, "hypervisor-memory": 12 << 20,
                     "uptime-us": 7_200_000_000, "config-errors": []}
        self.calls = []  # (command, arguments), in order
        self.seen = None  # subject of the last client's certificate
        self.handlers = {}
        self.raw = {}  # command -> bytes sent instead of an answer
        self.script = []  # answers to query-migrate; the last is repeated
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        env.hosts[name] = f"127.0.0.1:{self.port}"
        env.cleanups.append(self.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Gone: the port refuses, and connections end."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.drop()

    def drop(self):
        for c in self.connections[:]:
            try:
                # SSLSocket's own would drop TLS at once: a thread that reads would get what came as it came.
                socket.socket.shutdown(c, socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, sock):
        try:
            with self.context.wrap_socket(sock, server_side=True) as tls:
                tls.lock = threading.Lock()
                self.connections.append(tls)
                subject = tls.getpeercert()["subject"]
                self.seen = {k: v for part in subject for k, v in part}
                self._talk(tls)
        except (OSError, ValueError, ssl.SSLError, Drop):
            pass
        finally:
            sock.close()

    def _talk(self, tls):
        self._send(tls, self.greeting if self.greeting is not None else self.line({"QMP": {
            "version": {"godwit": "0.1.0", "protocol": 1}, "capabilities": [], "host": self.name}}))
        buf = b""
        while True:
            got = self._receive(tls)
            if got == b"":
                return
            buf += got or b""
            while b"\n" in buf:
                text, buf = buf.split(b"\n", 1)
                try:
                    msg = json.loads(text)
                except ValueError:
                    self.env.problems.append(f"not JSON: {text!r}")
                    return
                self._answer(tls, msg)

    # OpenSSL does not allow two threads in one connection at a time, and tests send events.
    @staticmethod
    def _send(tls, data):
        with tls.lock:
            tls.settimeout(30)
            tls.sendall(data)

    @staticmethod
    def _receive(tls):
        """What has come; b"" at the end, None if it was nothing for us."""
        if not tls.pending():
            select.select([tls], [], [])
        with tls.lock:
            tls.settimeout(0.01)
            try:
                return tls.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                return None

    def _answer(self, tls, msg):
        command, args = msg["execute"], msg.get("arguments", {})
        self.calls.append((command, args))
        if command in self.raw:
            self._send(tls, self.raw[command])
            return
        try:
            method = self.handlers.get(command) or getattr(self, "do_" + command.replace("-", "_"),
                                                           None)
            if not method:
                raise QmpError("CommandNotFound", f"no command {command}")
            self.tls = tls
            ret = method(args)
            self._send(tls, self.line({"return": {} if ret is None else ret, "id": msg["id"]}))
        except QmpError as e:
            self._send(tls, self.line({"error": {"class": e.cls, "desc": e.desc}, "id": msg["id"]}))
        if command == "query-migrate":  # saves the tests the time of the polling interval
            self.event("MIGRATION", guest=args["guest"], status="active", phase="precopy")

    @staticmethod
    def line(obj):
        return json.dumps(obj).encode() + b"\n"

    def event(self, name, **data):
        out = self.line({"event": name, "data": data,
                         "timestamp": {"seconds": 1, "microseconds": 2}})
        for c in self.connections[:]:
            try:
                self._send(c, out)
            except (OSError, ssl.SSLError):
                with contextlib.suppress(ValueError):  # another thread has found out, too
                    self.connections.remove(c)

    def console(self, name, offset, data):
        self.event("CONSOLE", guest=name, offset=offset, data=base64.b64encode(data).decode())

    def find(self, name):
        for g in self.guests:
            if g["name"] == name:
                return g
        raise QmpError("DeviceNotFound", f"no guest '{name}'")

    # The commands.
    def do_query_host(self, _args):
        return self.info

    def do_query_guests(self, _args):
        return self.guests

    def do_guest_start(self, args):
        g = self.find(args["guest"])
        if g["status"] == "running":
            raise QmpError("GenericError", f"guest '{g['name']}' is running already")
        g.update(status="running", running=True, owner=self.name)

    def do_system_powerdown(self, args):
        self.find(args["guest"]).update(status="shutdown", running=False)

    def do_guest_create(self, args):
        self.guests.append(guest(args["guest"], self.name, status="prelaunch", running=False))

    def do_guest_change(self, args):
        self.find(args["guest"])

    def do_guest_delete(self, args):
        self.guests.remove(self.find(args["guest"]))

    def do_query_time(self, _args):
        return {"state": "synchronized", "synchronized": True, "source": "10.0.0.1", "stratum": 3, "offset-us": -1234,
                "slew-us": 0, "dispersion-us": 5678, "rate-ppb": -2500, "last-answer-us": 3000000, "poll-s": 64,
                "servers": [{"address": "10.0.0.1", "state": "source", "preferred": True, "reach": 255, "stratum": 2,
                             "offset-us": -1000, "delay-us": 800},
                            {"address": "10.0.0.2:1123", "state": "unreachable", "reach": 0, "error": "it does not answer"}]}

    def do_guest_stop(self, args):
        self.find(args["guest"]).update(status="shutdown", running=False)

    def do_system_reset(self, args):
        self.find(args["guest"])

    def do_migrate(self, args):
        self.find(args["guest"])

    def do_query_migrate(self, args):
        self.find(args["guest"])
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return step() if callable(step) else step
