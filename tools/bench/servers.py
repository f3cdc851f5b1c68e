# SPDX-License-Identifier: MIT
"""Disk servers: unmodified nbdkit, qemu-nbd and nbd-server on loopback ports; and what is on their disks afterwards.

    disk = copy_image("build/debian/disk.img", "build/runs/x/disk.img")
    server = NbdServer("nbdkit", disk, run.dir)         # "qemu-nbd", "nbd-server"; tls=run.pki for TLS
    server.start()
    ... a machine reaches it as server.uri() ...
    server.kill(); server.start()                       # the same port, the same disk
    server.stop()
    check_filesystem(disk); check_transactions(disk, acknowledged)

Whatever holds a disk dies with the test. An image is looked at only while no server has it.
"""
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench

KINDS = ("nbdkit", "qemu-nbd", "nbd-server")
EXPORT = "disk"


def copy_image(source, target):
    """A disk of one's own, sparse as the first; returns target."""
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    return target


def _own_group_and_die_with_parent():
    os.setpgid(0, 0)
    bench._die_with_parent()


# nbd-server always daemonizes: this shell waits for the end of the test (of its standard input) and kills it then.
GUARD = 'rm -f "$0"; "$@" </dev/null || exit 1; cat >/dev/null; kill -9 -- "-$(cat "$0")" 2>/dev/null'


def _signal(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _running(pid):
    """Not even a zombie counts: nobody may be there to reap a daemon."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class NbdServer:
    """One server with one export, "disk". Log: DIRECTORY/NAME.log.

    kind      "nbdkit", "qemu-nbd" or "nbd-server"
    tls       a pki.Pki: TLS with a certificate for `address`, and only clients of that CA
    volatile  what was not flushed is lost when it is killed while a client is connected: a cache that loses power (nbdkit)
    log       path: nbdkit writes each request there (nbdkit-log-filter)
    filters   more of nbdkit's filters, ["delay"], and options, ["rdelay=100ms"]
    address   the one under which machines reach it
    """

    def __init__(
        self, kind, image, directory, *, name="nbd", port=0, tls=None, volatile=False, log=None, filters=(),
        options=(), read_only=False, address=bench.BENCH_IP,
    ):
        if kind not in KINDS:
            raise bench.BenchError(f"no such disk server: {kind} ({', '.join(KINDS)})")
        if kind != "nbdkit" and (volatile or log or filters):
            raise bench.BenchError(f"{kind} has no filters, use nbdkit")
        program = shutil.which(kind, path=os.environ["PATH"] + ":/usr/sbin:/usr/bin")
        if not program:
            raise bench.BenchError(f"{kind} is missing. Run 'tools/deps.sh packages'.")
        self.kind, self.program, self.image = kind, program, os.path.abspath(image)
        self.dir, self.name, self.port = os.path.abspath(directory), name, port or bench.free_port()
        self.volatile, self.log, self.read_only = volatile, log, read_only
        self.filters, self.options = list(filters), list(options)
        self.address, self.pki, self.process = address, tls, None
        if tls:
            self._certificates()

    def uri(self, address=None):
        """nbd://10.0.2.2:PORT/disk as godwit.conf writes it (nbds: with TLS)."""
        return f"nbd{'s' if self.pki else ''}://{address or self.address}:{self.port}/{EXPORT}"

    # Life

    def start(self):
        """Serve, and return self when it answers. The port may have been used before, by one that is still dying."""
        deadline = time.monotonic() + 60
        while not self._port_is_free() and time.monotonic() < deadline:
            time.sleep(0.02)
        command = getattr(self, "_" + self.kind.replace("-", "_"))()
        guarded = self.kind == "nbd-server"
        if guarded:
            command = ["sh", "-c", GUARD, self._pid_file(), *command]
        with open(os.path.join(self.dir, self.name + ".log"), "ab") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if guarded else subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=(lambda: os.setpgid(0, 0)) if guarded else _own_group_and_die_with_parent,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise bench.BenchError(
                    f"{self.kind} does not serve {self.image}: " + bench.tail(os.path.join(self.dir, self.name + ".log"), 5)
                )
            time.sleep(0.05)
        return self

    def kill(self):
        """SIGKILL, connections and all. Harmless on one that is not running."""
        self._end(signal.SIGKILL, 10)

    def stop(self):
        """Ask it to end, and wait until it has let go of the disk."""
        self._end(signal.SIGTERM, 20)

    def freeze(self):
        """It no longer answers, but its connections stay, until thaw()."""
        os.killpg(self._group(), signal.SIGSTOP)

    def thaw(self):
        os.killpg(self._group(), signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def _end(self, number, timeout):
        if not self.process:
            return
        group = self._group()
        _signal(group, number)
        _signal(group, signal.SIGCONT)
        if self.process.stdin:
            deadline = time.monotonic() + timeout
            while _running(group) and time.monotonic() < deadline:
                time.sleep(0.02)
            self.process.stdin.close()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        _signal(group, signal.SIGKILL)  # and what is left of it: nbd-server has a process for each connection
        self.process.kill()
        self.process.wait()
        self.process = None

    def _pid_file(self):
        return os.path.join(self.dir, self.name + ".pid")

    def _group(self):
        """Its process group; that of nbd-server, which daemonizes, is in its own file."""
        if self.kind != "nbd-server":
            return self.process.pid
        try:
            with open(self._pid_file(), encoding="ascii") as f:
                return int(f.read())
        except (OSError, ValueError):
            return self.process.pid

    def _port_is_free(self):
        try:
            with socket.create_server(("127.0.0.1", self.port)):
                return True
        except OSError:
            return False

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as s:
                return s.recv(8) == b"NBDMAGIC"
        except OSError:
            return False

    # Command lines

    def _certificates(self):
        crt, key = self.pki.issue(self.name, "disk", eku="serverAuth", san=f"IP:{self.address},IP:127.0.0.1")
        self.certificates = os.path.join(self.dir, self.name + "-tls")
        os.makedirs(self.certificates, exist_ok=True)
        for source, target in ((self.pki.ca_crt, "ca-cert.pem"), (crt, "server-cert.pem"), (key, "server-key.pem")):
            shutil.copy(source, os.path.join(self.certificates, target))

    def _nbdkit(self):
        command = [self.program, "-f", "--exit-with-parent", "-i", "127.0.0.1", "-p", str(self.port)]
        if self.read_only:
            command.append("-r")
        if self.pki:
            command += ["--tls=require", "--tls-verify-peer", f"--tls-certificates={self.certificates}"]
        filters = (["log"] if self.log else []) + self.filters + (["cache"] if self.volatile else [])
        options = ([f"logfile={self.log}", "logappend=true"] if self.log else []) + self.options
        options += ["cache=writeback"] if self.volatile else []
        # Its own idea of export names is that there is one; so that a wrong name is refused as elsewhere:
        filters.append("exportname")
        options += [f"exportname={EXPORT}", "exportname-strict=true"]
        return command + [f"--filter={f}" for f in filters] + ["file", self.image] + options

    def _qemu_nbd(self):
        command = [self.program, "--persistent", "--shared=16", "-f", "raw", "-b", "127.0.0.1", "-p", str(self.port)]
        command += ["-x", EXPORT, "--discard=unmap", "--detect-zeroes=off"]
        if self.read_only:
            command.append("-r")
        if self.pki:
            command += ["--object", f"tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={self.certificates}"]
            command += ["--tls-creds", "tls"]
        return command + [self.image]

    def _nbd_server(self):
        conf = os.path.join(self.dir, self.name + ".conf")
        lines = ["[generic]", "listenaddr = 127.0.0.1", f"port = {self.port}", "allowlist = true"]
        if self.pki:
            files = (("certfile", "server-cert"), ("keyfile", "server-key"), ("cacertfile", "ca-cert"))
            lines += [f"{key} = {os.path.join(self.certificates, file)}.pem" for key, file in files]
            lines += ["force_tls = true"]
        lines += [f"[{EXPORT}]", f"exportname = {self.image}", "flush = true", "fua = true", "trim = true"]
        lines += [f"readonly = {'true' if self.read_only else 'false'}"]
        with open(conf, "w", encoding="ascii") as f:
            f.write("\n".join(lines) + "\n")
        return [self.program, "-C", conf, "-p", self._pid_file()]


# What is on a disk afterwards

# e2fsprogs live there.
_ENV = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_ENV, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def replay_journal(image):
    """Do what the next mount would: replay the journal of a file system that was not unmounted."""
    code, text = _run("e2fsck", "-E", "journal_only", "-y", image)
    assert code in (0, 1), f"journal of {image} cannot be replayed (e2fsck {code}): {text}"


def check_filesystem(image, unmounted=True):
    """Nothing is wrong with the ext4 in the image. unmounted=False: its guest was cut off, the journal comes first."""
    if not unmounted:
        replay_journal(image)
    code, text = _run("e2fsck", "-fn", image)
    assert code == 0, f"e2fsck -fn {image} ended with {code}: {text[-2000:]}"


def mix(x):
    """What services.c stores beside each transaction's number."""
    mask = (1 << 64) - 1
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & mask
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def check_transactions(image, acknowledged, path="/var/lib/test.db"):
    """The SQLite database in the image is whole, and has every transaction up to the last acknowledged; returns how many."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "test.db")
        # With its journal, if it was cut off: SQLite rolls the last transaction back.
        for end in ("", "-journal"):
            _run("debugfs", "-R", f"dump {path}{end} {copy}{end}", image)
        assert os.path.exists(copy) and os.path.getsize(copy), f"{image} has no {path}"
        if os.path.exists(copy + "-journal") and not os.path.getsize(copy + "-journal"):
            os.unlink(copy + "-journal")
        database = sqlite3.connect(copy)
        try:
            verdict = database.execute("PRAGMA integrity_check").fetchall()
            assert verdict == [("ok",)], f"{path} of {image}: {verdict[:5]}"
            rows = database.execute("SELECT n, mix, length(pad) FROM t ORDER BY n").fetchall()
        finally:
            database.close()
    for number, row in enumerate(rows, 1):
        assert row == (number, f"{mix(number):016x}", 600), f"transaction {number} of {image} is {row}"
    assert len(rows) >= acknowledged, f"{acknowledged} transactions were acknowledged, {len(rows)} are in {path} of {image}"
    return len(rows)
