# SPDX-License-Identifier: MIT
"""A TCP proxy that is a link between two hosts: it can be slowed, delayed, stalled, cut and healed.

    link = Proxy(target=("127.0.0.1", 4000))    # listens on a free loopback port, link.port
    link.rate = 10_000_000                      # bytes per second and direction; None = no limit
    link.delay = 0.05                           # seconds, one way
    link.cut()                                  # RST every connection, refuse new ones ... until heal()
    link.cut_after("to", 1_000_000)             # let exactly so many more bytes pass, then cut

Directions: "to" is from the one who connects towards the target, "back" the other way.
"""
import collections
import socket
import struct
import threading
import time

DIRECTIONS = ("to", "back")
CHUNK = 256 * 1024
WINDOW = 4 << 20  # bytes the link itself holds per direction; more back-pressures the sender


def _directions(which):
    if which == "both":
        return DIRECTIONS
    if which not in DIRECTIONS:
        raise ValueError(f"direction must be 'to', 'back' or 'both', not {which!r}")
    return (which,)


class _Pump:
    """One direction of one connection: a reader thread fills a queue, a writer thread empties it."""

    def __init__(self, connection, direction, source, sink):
        self.connection, self.direction = connection, direction
        self.source, self.sink = source, sink
        self.queue = collections.deque()  # (due time, bytes); b"" is the end of the stream
        self.held = 0
        self.lost = False  # bytes of this stream vanished: it can never be healed
        self.change = threading.Condition()

    def start(self):
        for target in (self._read, self._write):
            threading.Thread(target=target, daemon=True).start()

    def wake(self):
        with self.change:
            self.change.notify_all()

    def _read(self):
        link = self.connection.link
        while True:
            with self.change:
                while not self.connection.closed and self.held >= WINDOW:
                    self.change.wait()
            if self.connection.closed:
                return
            try:
                # A stalled direction is not read either, so that the sender sees a window that fills up.
                link.wait_flowing(self)
                data = self.source.recv(CHUNK)
            except OSError:
                self.connection.reset()
                return
            with self.change:
                self.queue.append((time.monotonic() + link.delay, data))
                self.held += len(data)
                self.change.notify_all()
            if not data:
                return

    def _write(self):
        link = self.connection.link
        while True:
            with self.change:
                while not self.connection.closed and not self.queue:
                    self.change.wait()
                if self.connection.closed:
                    return
                due, data = self.queue.popleft()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                if not data:
                    link.wait_flowing(self)
                    self.sink.shutdown(socket.SHUT_WR)
                    self.connection.half_done()
                    return
                if not link.send(self, data):
                    return
            except OSError:
                self.connection.reset()
                return
            with self.change:
                self.held -= len(data)
                self.change.notify_all()


class _Connection:
    def __init__(self, link, near, far):
        self.link, self.near, self.far = link, near, far
        self.closed = False
        self.lock = threading.Lock()
        self.ends = 0
        self.pumps = {"to": _Pump(self, "to", near, far), "back": _Pump(self, "back", far, near)}
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self):
        for pump in self.pumps.values():
            pump.start()

    def half_done(self):
        with self.lock:
            self.ends += 1
            done = self.ends == 2
        if done:
            self._close(rst=False)

    def reset(self):
        self._close(rst=True)

    def _close(self, rst):
        with self.lock:
            if self.closed:
                return
            self.closed = True
        for sock in (self.near, self.far):
            if rst:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                continue
            # A thread inside recv() keeps the socket alive past close(): this gets it out.
            try:
                sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass
        for sock in (self.near, self.far):
            sock.close()
        for pump in self.pumps.values():
            pump.wake()
        self.link.forget(self)


class Proxy:
    """See the module's text. Thread-safe; every control takes effect at once, also on open connections."""

    def __init__(self, target, port=0):
        self.target = target
        self.rate = None  # bytes/s per direction, or None
        self.delay = 0.0  # seconds one way
        self.bytes = {"to": 0, "back": 0}  # payload let through so far, all connections
        self.connections = 0  # connections accepted so far
        self._lock = threading.Condition()
        self._open = set()
        self._refuse = False
        self._stalled = set()
        self._swallow = set()
        self._limit = {}  # direction -> (byte count at which to act, action)
        self._next_free = {"to": 0.0, "back": 0.0}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # Controls

    def cut(self):
        """RST all connections and answer new ones with RST, until heal()."""
        with self._lock:
            self._refuse = True
            victims = list(self._open)
        for connection in victims:
            connection.reset()

    def reset_connections(self):
        """RST the open connections only; new ones are served at once (a short break)."""
        with self._lock:
            victims = list(self._open)
        for connection in victims:
            connection.reset()

    def stall(self, direction="both"):
        """Stop forwarding but keep everything open and lose nothing, until heal()."""
        with self._lock:
            self._stalled.update(_directions(direction))

    def half_cut(self, direction):
        """Bytes in this direction vanish, the other direction works. Connections that lost bytes get RST by heal()."""
        with self._lock:
            self._swallow.update(_directions(direction))

    def cut_after(self, direction, count, action="cut"):
        """After exactly count more bytes in direction do action: "cut", "stall" (both) or "half_cut" (that direction)."""
        if action not in ("cut", "stall", "half_cut"):
            raise ValueError(f"no such action: {action}")
        (direction,) = _directions(direction)
        with self._lock:
            self._limit[direction] = (self.bytes[direction] + count, action)

    def heal(self):
        """Undo cut, stall, half_cut and a pending cut_after. rate and delay stay."""
        with self._lock:
            self._refuse = False
            self._stalled.clear()
            self._swallow.clear()
            self._limit.clear()
            victims = [c for c in self._open if any(p.lost for p in c.pumps.values())]
            self._lock.notify_all()
        for connection in victims:
            connection.reset()

    def wait_bytes(self, direction, count, timeout=60):
        """Wait until count bytes in all have passed in direction; False if the time is over first."""
        with self._lock:
            return self._lock.wait_for(lambda: self.bytes[direction] >= count, timeout)

    def close(self):
        self._listener.close()
        self.cut()

    # For the pumps

    def forget(self, connection):
        with self._lock:
            self._open.discard(connection)
            self._lock.notify_all()

    def wait_flowing(self, pump):
        with self._lock:
            while pump.direction in self._stalled and not pump.connection.closed:
                self._lock.wait()

    def send(self, pump, data):
        """Hand data on as far as the link's state allows; False when the connection is over."""
        view = memoryview(data)
        while view:
            self.wait_flowing(pump)
            if pump.connection.closed:
                return False
            with self._lock:
                part, action = self._allowed(pump.direction, len(view))
                lose = pump.direction in self._swallow
                pause = self._pace(pump.direction, part)
                # Counted before they go out: who has received them must find them counted.
                if not lose:
                    self.bytes[pump.direction] += part
                    self._lock.notify_all()
            if pause > 0:
                time.sleep(pause)
            if lose:
                pump.lost = True
            elif part:
                pump.sink.sendall(view[:part])
            view = view[part:]
            if action and self._take_limit(pump.direction):
                {
                    "cut": self.cut,
                    "stall": self.stall,
                    "half_cut": lambda: self.half_cut(pump.direction),
                }[action]()
        return True

    def _allowed(self, direction, wanted):
        # Small steps under a rate limit: a change of rate, or a cut, must not wait for a big block.
        if self.rate:
            wanted = min(wanted, max(1460, int(self.rate / 50)))
        limit = self._limit.get(direction)
        if limit and direction not in self._swallow and self.bytes[direction] + wanted >= limit[0]:
            return max(0, limit[0] - self.bytes[direction]), limit[1]
        return wanted, None

    def _take_limit(self, direction):
        with self._lock:
            return self._limit.pop(direction, None) is not None

    def _pace(self, direction, count):
        if not self.rate:
            return 0
        now = time.monotonic()
        start = max(now, self._next_free[direction])
        self._next_free[direction] = start + count / self.rate
        return self._next_free[direction] - now

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refuse:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                continue
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        try:
            far = socket.create_connection(self.target, timeout=10)
            far.settimeout(None)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            near.close()
            return
        connection = _Connection(self, near, far)
        with self._lock:
            self.connections += 1
            self._open.add(connection)
            refused = self._refuse
        if refused:
            connection.reset()
        else:
            connection.start()
