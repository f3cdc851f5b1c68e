# SPDX-License-Identifier: MIT
"""The migration protocol (docs/PROTOCOL.md) in the hands of tests.

    Conn      one end of a TLS connection with frames
    Fake      a target that is a Python function
    Middle    stands between two hosts with certificates of both, and cuts, holds or changes chosen frames
"""
import select
import socket
import ssl
import struct
import threading

from bench import PATIENCE
from pair import certificate, tls_context

TYPES = (
    "HELLO CONFIG READY REFUSED PAGES ZERO CONSOLE ROUND_END STATE FINAL PREPARED COMMIT COMMITTED ABORT ERROR KEEPALIVE "
    "RESOLVE UNKNOWN"
).split()
NUMBER = {name: number for number, name in enumerate(TYPES, 1)}
MAGIC = 0x47494D5457444F47
ALPN = "godwit-mig/1"
BENCH_IP = "10.0.2.2"  # this machine, as hosts see it
MAX_PAYLOAD = 69632


def frame(name, payload=b""):
    return struct.pack("<II", NUMBER[name], len(payload)) + payload


def text(s):
    return struct.pack("<H", len(s)) + s.encode()


def hello(host, version=2, boot=7, magic=MAGIC):
    return frame("HELLO", struct.pack("<QIIQQ", magic, version, 0, 0, boot) + text("0.1.0") + text(host))


def is_last(payload):
    """Whether a ROUND_END of the source is that of the freeze."""
    return payload[4] == 1


def reset(sock):
    """Close so that the other end sees RST."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    except OSError:
        pass


class Conn:
    """Frames over a TLS socket; blocking, with a timeout."""

    def __init__(self, sock, timeout=60 * PATIENCE):
        self.sock = sock
        sock.settimeout(timeout)

    @classmethod
    def dial(cls, port, server, ca, crt, key, alpn=ALPN, timeout=60 * PATIENCE):
        raw = socket.create_connection(("127.0.0.1", port), timeout)
        return cls(tls_context(False, ca, crt, key, alpn).wrap_socket(raw, server_hostname=server), timeout)

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise ConnectionError("the peer closed the connection")
            data += part
        return data

    def recv(self):
        """(type name, payload)"""
        number, length = struct.unpack("<II", self._exactly(8))
        return TYPES[number - 1], self._exactly(length)

    def expect(self, *names):
        """The next frame but KEEPALIVE, which has to be one of these; returns its payload."""
        while True:
            name, payload = self.recv()
            if name != "KEEPALIVE":
                break
        assert name in names, (name, payload[:300])
        return payload

    def closed(self):
        """Read to the end; true if it comes within the host's own limits, however slow its emulator is."""
        self.sock.settimeout(600)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        self.sock.close()


class _Server:
    """Listens on loopback; every connection gets a thread and serve(raw socket)."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = self.listener.getsockname()[1]
        self.uri = f"tcp:{BENCH_IP}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(raw,), daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self.listener.close()


class Fake(_Server):
    """A migration target: script(conn) for every connection after its handshake. Handshakes may fail.

    files: (crt, key) to show; script None: plain TCP that is never answered; bytes: sent without TLS.
    """

    def __init__(self, ca, files, script, alpn=ALPN):
        self.ca, self.files, self.script, self.alpn = ca, files, script, alpn
        self.open, self.errors = [], []
        super().__init__()

    def serve(self, raw):
        self.open.append(raw)
        if self.script is None:
            return
        if isinstance(self.script, bytes):
            raw.sendall(self.script)
            return
        try:
            sock = tls_context(True, self.ca, *self.files, self.alpn).wrap_socket(raw, server_side=True)
        except (OSError, ssl.SSLError):
            raw.close()
            return
        self.open.append(sock)
        try:
            self.script(Conn(sock))
        except Exception as e:  # judged by the test
            self.errors.append(e)
        sock.close()

    def close(self):
        super().close()
        for sock in self.open:
            sock.close()


class Rule:
    """See Middle.on()."""

    def __init__(self, side, name, action, nth, when):
        self.side, self.number, self.action, self.nth, self.when = side, NUMBER[name], action, nth, when
        self.hit = threading.Event()

    def matches(self, side, number, payload):
        if self.hit.is_set() or (side, number) != (self.side, self.number):
            return False
        if self.when and not self.when(payload):
            return False
        self.nth -= 1
        if self.nth:
            return False
        self.hit.set()
        return True

    def wait(self, timeout=60):
        timeout *= PATIENCE
        assert self.hit.wait(timeout), f"no {TYPES[self.number - 1]} from {self.side} in {timeout} s"


class _Flow:
    """One direction of a connection through the middle."""

    def __init__(self, side, source, sink):
        self.side, self.source, self.sink = side, source, sink
        self.got, self.out, self.end = bytearray(), bytearray(), False
        self.held = False  # a rule has been applied to the first frame in got: no other one is


class Middle(_Server):
    """A man in the middle of moves between two hosts of one cluster. Source connects to .uri.

    down     while true, connections are answered with RST
    seen     (side, type name) of every frame that went through, in order
    """

    def __init__(self, pki, source, target):
        source_crt, target_crt = (certificate(pki, host.name, "host") for host in (source, target))
        self._near = tls_context(True, pki.ca_crt, *target_crt, ALPN)
        self._far = tls_context(False, pki.ca_crt, *source_crt, ALPN)
        self.target = target
        self.down, self.seen = False, []
        self._rules, self._stopped, self._open = [], set(), set()
        super().__init__()

    def on(self, side, name, action, nth=1, when=None):
        """At the nth such frame (of those for which when(payload) is true) do, once:

        "cut"      close both ends before it goes on, and stay down until heal()
        "last"     let it through, then the same
        "break"    as "cut", but new connections are served
        "hold"     keep it and what follows in this direction until heal()
        "stall"    the same for both directions
        "forget"   let the source's connection go; the target's stays open and silent until heal()
        function   bytes to send on in its place (of its payload)

        side is "S" (source) or "T". The Rule returned has wait().
        """
        rule = Rule(side, name, action, nth, when)
        self._rules.append(rule)
        return rule

    def heal(self):
        """Undo everything; rules that have not been hit yet are gone."""
        self._rules.clear()
        self._stopped.clear()
        self.down = False

    def serve(self, raw):
        far = None
        try:
            if self.down:
                reset(raw)
                return
            raw.settimeout(30)
            near = self._near.wrap_socket(raw, server_side=True)
            far = socket.create_connection(("127.0.0.1", self.target.port), timeout=30)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far = self._far.wrap_socket(far, server_hostname=self.target.name)
            self._pump(near, far)
        except (OSError, ssl.SSLError):
            reset(raw)
            if far:
                reset(far)

    def _pump(self, near, far):
        flows = [_Flow("S", near, far), _Flow("T", far, near)]
        for sock in (near, far):
            sock.setblocking(False)
        while True:
            moved = False
            for flow in flows:
                moved |= self._read(flow)
                verdict = self._frames(flow)
                moved |= self._write(flow)
                if verdict == "last":
                    while flow.out:
                        select.select([], [flow.sink], [], 1)
                        self._write(flow)
                    flow.sink.close()  # FIN: what was sent is read first
                    reset(flow.source)
                    return
                if verdict == "cut":
                    reset(near)
                    reset(far)
                    return
                if verdict == "forget":
                    reset(near)
                    while "forget" in self._stopped:
                        threading.Event().wait(0.05)
                    reset(far)
                    return
                if flow.end and not flow.out and flow.side not in self._stopped:
                    near.close()
                    far.close()
                    return
            if not moved:
                select.select([f.source for f in flows if self._reads(f)], [f.sink for f in flows if f.out], [], 0.05)

    def _reads(self, flow):
        return not flow.end and flow.side not in self._stopped and len(flow.got) + len(flow.out) <= 1 << 20

    def _read(self, flow):
        if not self._reads(flow):
            return False
        try:
            data = flow.source.recv(256 * 1024)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            data = b""
        flow.end = not data
        flow.got += data
        return True

    def _write(self, flow):
        if not flow.out:
            return False
        try:
            del flow.out[: flow.sink.send(flow.out)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def _frames(self, flow):
        """Move whole frames on, by the rules. Returns what is to become of the connection."""
        while len(flow.got) >= 8 and flow.side not in self._stopped:
            number, length = struct.unpack_from("<II", flow.got)
            if len(flow.got) < 8 + length:
                break
            payload = bytes(flow.got[8 : 8 + length])
            rule = None if flow.held else next((r for r in self._rules if r.matches(flow.side, number, payload)), None)
            action = rule.action if rule else None
            flow.held = action in ("hold", "stall")
            if action == "hold":
                self._stopped.add(flow.side)
                break
            if action == "stall":
                self._stopped.update("ST")
                break
            if action in ("cut", "break", "forget"):
                self.down = action == "cut"
                if action == "forget":
                    self._stopped.add("forget")
                return "cut" if action == "break" else action
            del flow.got[: 8 + length]
            self.seen.append((flow.side, TYPES[number - 1]))
            flow.out += action(payload) if callable(action) else struct.pack("<II", number, length) + payload
            if action == "last":
                self.down = True
                return "last"
        return None
