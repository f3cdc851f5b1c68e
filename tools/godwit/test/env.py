# SPDX-License-Identifier: MIT
"""What a test is given: a state folder with a CA of its own, and the command under test."""
import os
import pty
import select
import shutil
import signal
import subprocess
import time


class Failed(AssertionError):
    pass


class Env:
    def __init__(self, binary, folder):
        self.binary = os.path.abspath(binary)
        self.folder = folder
        self.dir = os.path.join(folder, "state")
        self.hosts = {}  # name -> address, written to hosts.ini before each run
        self.cleanups = []
        self.problems = []  # what the fake hosts did not like
        self.environ = {"PATH": os.environ["PATH"], "HOME": folder, "TERM": "xterm"}

    def close(self):
        for f in reversed(self.cleanups):
            f()

    def enroll(self, name, *options, out=None):
        """Enrols a host; returns the folder with its certificate."""
        out = out or os.path.join(self.folder, "esp-" + name)
        self.run("ca", "enroll", name, "--out", out, *options, code=0)
        return os.path.join(out, "godwit")

    def write_hosts(self):
        if self.hosts:
            with open(os.path.join(self.dir, "hosts.ini"), "w") as f:
                for name, address in self.hosts.items():
                    f.write(f"[{name}]\naddress={address}\n")

    def argv(self, args):
        return [self.binary, *args[:1], "--dir", self.dir, *args[1:]]

    def run(self, *args, code=None, timeout=120, stdin=b"", keep_hosts=False):
        """Runs `godwit ARGS`; the result has .out, .err and .code. Checks the exit code if given."""
        if not keep_hosts and os.path.isdir(self.dir):
            self.write_hosts()
        p = subprocess.run(self.argv(args), input=stdin, capture_output=True, timeout=timeout,
                           env=self.environ, check=False)
        p.out = p.stdout.decode(errors="replace")
        p.err = p.stderr.decode(errors="replace")
        p.code = p.returncode
        p.all = p.out + p.err
        self.check_sane(p.all)
        if code is not None and p.code != code:
            raise Failed(f"exit code {p.code}, not {code}, of {' '.join(args)}:\n{p.all}")
        return p

    @staticmethod
    def check_sane(text):
        for bad in ("Sanitizer", "runtime error", "Segmentation"):
            if bad in text:
                raise Failed("the program is broken:\n" + text)

    def start(self, *args, **more):
        """Starts `godwit ARGS` in the background; ends with the test."""
        self.write_hosts()
        p = subprocess.Popen(self.argv(args), env=self.environ, **more)
        self.cleanups.append(lambda: (p.poll() is None and p.kill(), p.wait()))
        return p

    def terminal(self, *args):
        self.write_hosts()
        return Terminal(self, self.argv(args))


class Terminal:
    """`godwit` on a terminal of its own."""

    def __init__(self, env, argv):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, env.environ)
        self.text = ""
        self.status = None
        env.cleanups.append(self.close)

    def close(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.status = -1
        os.close(self.fd)

    def read_until(self, what, timeout=60):
        end = time.monotonic() + timeout
        while what is None or what not in self.text:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise Failed(f"waited for {what!r}, got:\n{self.text}")
            try:
                got = os.read(self.fd, 65536)
            except OSError:
                got = b""
            if not got:
                if what is None:
                    return self.text
                raise Failed(f"ended without {what!r}:\n{self.text}")
            self.text += got.decode(errors="replace")
        return self.text

    def type(self, data):
        os.write(self.fd, data)

    def wait(self, timeout=60):
        """Reads to the end; returns the exit code."""
        self.read_until(None, timeout)
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        Env.check_sane(self.text)
        return self.status


def has(text, *parts):
    """Each part occurs in the text (line breaks count as spaces)."""
    flat = " ".join(text.split())
    for part in parts:
        if part not in flat:
            raise Failed(f"'{part}' is missing in:\n{text}")


def lacks(text, *parts):
    for part in parts:
        if part in text:
            raise Failed(f"'{part}' must not be in:\n{text}")


def equal(a, b):
    if a != b:
        raise Failed(f"{a!r} is not {b!r}")


def wait_for(check, timeout=60):
    end = time.monotonic() + timeout
    while not check():
        if time.monotonic() > end:
            raise Failed("waited in vain")
        time.sleep(0.02)


def copy_state(source, target):
    shutil.copytree(source, target)
