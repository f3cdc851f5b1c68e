# SPDX-License-Identifier: MIT
"""godwit console: output, input, the escape key, ends, and guests that move."""
import base64
import json
import os
import signal
import subprocess
import termios
import time

from env import Failed, equal, has, lacks, wait_for
from fakehost import FakeHost, QmpError, guest


class ConsoleHost(FakeHost):
    """Repeats what is typed, in capitals, as the guest's output."""

    def __init__(self, env, name, history=b"", **more):
        super().__init__(env, name, **more)
        self.stream = history
        self.typed = b""

    def attached(self):
        return any(c == "console-attach" for c, _ in self.calls)

    def do_console_attach(self, args):
        self.find(args["guest"])
        if args["history"]:
            self.console("g", 0, self.stream)

    def do_ringbuf_write(self, args):
        equal((args["device"], args["format"]), ("g", "base64"))
        data = base64.b64decode(args["data"])
        self.typed += data
        self.say(data.upper())

    def say(self, data):
        self.console("g", len(self.stream), data)
        self.stream += data


def console_host(env, name="a", **more):
    return ConsoleHost(env, name, guests=[guest("g", name)], **more)


def test_output_until_the_guest_is_off(env):
    h = console_host(env)
    p = env.start("console", "g", "--no-input", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(h.attached)
    h.say(bytes(range(256)))
    h.event("CONSOLE", guest="other", offset=0, data="AAAA")
    h.event("GUEST_STATE", guest="other", status="shutdown", reason="x")
    h.say(b"bye\n")
    h.event("GUEST_STATE", guest="g", status="shutdown", reason="ACPI power off")
    out, err = p.communicate(timeout=60)
    equal(out, bytes(range(256)) + b"bye\n")
    has(err.decode(), "guest 'g' is off: shutdown, ACPI power off")
    equal(p.returncode, 0)


def test_guest_dies(env):
    h = console_host(env)
    p = env.start("console", "g", "--no-input", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(h.attached)
    h.event("GUEST_STATE", guest="g", status="internal-error", reason="triple fault")
    _, err = p.communicate(timeout=60)
    equal(p.returncode, 6)
    has(err.decode(), "guest 'g' died: triple fault")


def test_input_from_a_pipe(env):
    h = console_host(env)
    data = b"hello " * 400  # more than one write
    p = env.run("console", "g", "--idle", "0.3", stdin=data + b"\x1d", code=0)
    equal(h.typed, data + b"\x1d")  # Ctrl-] is only special on a terminal
    equal(p.stdout, data.upper() + b"\x1d")


def test_history_and_idle(env):
    console_host(env, history=b"boot\n")
    equal(env.run("console", "g", "--no-input", "--history", "--idle", "0.2", code=0).out, "boot\n")
    equal(env.run("console", "g", "--no-input", "--idle", "0.2", code=0).out, "")


def test_json(env):
    console_host(env, history=b"boot\n")
    p = env.run("console", "g", "--no-input", "--history", "--idle", "0.2", "--json", code=0)
    got = json.loads(p.out)
    equal((got["offset"], base64.b64decode(got["data"])), (0, b"boot\n"))


def test_terminal(env):
    h = console_host(env, history=b"login: ")
    t = env.terminal("console", "g", "--history")
    t.read_until("console of 'g' on 'a'; Ctrl-] leaves")
    t.read_until("login: ")
    t.type(b"root\r\x03\x04")  # Ctrl-C and Ctrl-D belong to the guest
    t.read_until("ROOT\r\x03\x04")
    t.type(b"more\x1dnot this")
    equal(t.wait(), 0)
    wait_for(lambda: len(h.typed) >= 10)
    equal(h.typed, b"root\r\x03\x04more")


def test_terminal_is_restored_when_the_host_goes(env):
    h = console_host(env)
    t = env.terminal("console", "g")
    t.read_until("leaves")
    wait_for(h.attached)
    h.close()
    equal(t.wait(), 3)
    has(t.text, "host 'a'", "closed the connection")


def test_terminal_is_restored_when_it_is_ended(env):
    console_host(env)
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        t = env.terminal("console", "g")
        t.read_until("leaves")
        equal(termios.tcgetattr(t.fd)[3] & termios.ICANON, 0)
        os.kill(t.pid, sig)
        equal(t.wait(), -sig)
        equal(termios.tcgetattr(t.fd)[3] & termios.ICANON, termios.ICANON)


def test_without_follow_a_move_ends_it(env):
    h = console_host(env)
    p = env.start("console", "g", "--no-input", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for(h.attached)
    h.event("MIGRATION", guest="g", status="active", phase="precopy")
    h.event("MIGRATION", guest="g", status="completed", phase="done")
    _, err = p.communicate(timeout=60)
    equal(p.returncode, 0)
    has(err.decode(), "moved to another host; --follow goes with it")


def follow_a_move(env, *options):
    a = console_host(env, history=b"one\n")
    b = ConsoleHost(env, "b")
    p = env.start("console", "g", "--no-input", "--history", "--follow", *options, stdout=subprocess.PIPE,
                  stderr=subprocess.PIPE)
    wait_for(a.attached)
    a.say(b"two\n")
    # The history travels with the guest; the command must show each byte once.
    b.stream = a.stream + b"three\n"
    a.find("g").update(status="postmigrate", running=False, owner="b")
    b.guests.append(guest("g", "b", status="inmigrate", running=False, owner="a"))
    a.event("GUEST_STATE", guest="g", status="postmigrate", reason="")
    wait_for(lambda: any(c == "query-guests" for c, _ in b.calls[1:]))
    b.guests[0].update(status="running", running=True, owner="b")
    wait_for(b.attached)
    b.say(b"four\n")
    b.event("GUEST_STATE", guest="g", status="shutdown", reason="")
    out, err = p.communicate(timeout=60)
    has(err.decode(), "'g' is on 'b' now")
    equal(p.returncode, 0)
    return out


def test_follow_a_move(env):
    equal(follow_a_move(env), b"one\ntwo\nthree\nfour\n")


def test_follow_a_move_as_json(env):
    shown = b""
    for line in follow_a_move(env, "--json").splitlines():
        got = json.loads(line)
        equal(got["offset"], len(shown))
        shown += base64.b64decode(got["data"])
    equal(shown, b"one\ntwo\nthree\nfour\n")


def test_follow_over_a_lost_connection(env):
    a = console_host(env)
    p = env.start("console", "g", "--no-input", "--follow", stdout=subprocess.PIPE,
                  stderr=subprocess.DEVNULL)
    wait_for(a.attached)
    a.say(b"one\n")
    a.calls.clear()
    a.drop()
    wait_for(a.attached)
    a.say(b"two\n")
    a.event("GUEST_STATE", guest="g", status="shutdown", reason="")
    equal(p.communicate(timeout=60)[0], b"one\ntwo\n")


def test_may_look_but_not_type(env):
    h = console_host(env)

    def deny(_args):
        raise QmpError("AccessDenied", "the role viewer may not ringbuf-write")
    h.handlers["ringbuf-write"] = deny
    has(env.run("console", "g", stdin=b"x", code=1).err, "does not allow this", "ringbuf-write")


def test_nonsense(env):
    h = console_host(env)
    p = env.start("console", "g", "--no-input", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(h.attached)
    h.event("CONSOLE", guest="g", offset=0, data="not base64!")
    h.event("CONSOLE", guest="g", offset=-1, data=5)
    h.event("CONSOLE", guest="g")
    h.event("CONSOLE", guest="g", offset=1e300, data="QUJD")
    h.say(b"ok\n")
    h.event("GUEST_STATE", guest="g", status="shutdown")
    out, err = p.communicate(timeout=60)
    equal(p.returncode, 0)
    has(out.decode(), "ok")
    has(err.decode(), "cannot be read")


def test_output_that_cannot_be_written(env):
    h = console_host(env, history=b"x" * 100_000)
    with open("/dev/full", "w") as full:
        p = env.start("console", "g", "--no-input", "--history", stdout=full, stderr=subprocess.PIPE)
        _, err = p.communicate(timeout=60)
    equal(p.returncode, 1)
    has(err.decode(), "cannot write")
    lacks(err.decode(), "Success")
    if not h.attached():
        raise Failed("not attached")


def test_last_output_may_come_after_the_end(env):
    h = console_host(env)
    for _ in range(8):  # it does not wait for long, and a busy machine may be late with the output
        h.calls.clear()
        h.stream = b""
        p = env.start("console", "g", "--no-input", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        wait_for(h.attached)
        h.event("GUEST_STATE", guest="g", status="shutdown", reason="")
        time.sleep(0.2)
        h.say(b"Power down\n")
        if p.communicate(timeout=60)[0] == b"Power down\n":
            return
    raise Failed("it is never shown")


def test_input_waits_for_a_guest_that_does_not_read(env):
    h = console_host(env)
    begin = time.monotonic()

    def busy(args):
        if time.monotonic() < begin + 1.5:
            raise QmpError("GenericError", "guest 'g' does not read its console")
        return h.do_ringbuf_write(args)
    h.handlers["ringbuf-write"] = busy
    equal(env.run("console", "g", "--idle", "0.3", stdin=b"hello", code=0).out, "HELLO")
    equal(h.typed, b"hello")
    begin = time.monotonic() + 100
    has(env.run("console", "g", "--timeout", "3", stdin=b"x", code=1).err, "does not read")


def test_escape_works_when_the_guest_does_not_read(env):
    h = console_host(env)

    def busy(_args):
        raise QmpError("GenericError", "guest 'g' does not read its console")
    h.handlers["ringbuf-write"] = busy
    t = env.terminal("console", "g")
    t.read_until("leaves")
    t.type(b"hello")
    wait_for(lambda: h.calls[-1][0] == "ringbuf-write")
    t.type(b" more")
    time.sleep(0.2)
    begin = time.monotonic()
    t.type(b"\x1d")
    equal(t.wait(), 0)
    if time.monotonic() - begin > 8:  # of the 10 s for which it tries to type
        raise Failed("took too long")


def test_fast_typing_arrives_in_order(env):
    h = console_host(env)
    t = env.terminal("console", "g")
    t.read_until("leaves")
    want = b""
    for i in range(100):
        piece = b"%d," % i
        t.type(piece)
        want += piece
    wait_for(lambda: len(h.typed) >= len(want))
    equal(h.typed, want)
    t.type(b"\x1d")
    equal(t.wait(), 0)


def test_silent_host_does_not_hold_us(env):
    h = console_host(env)
    h.raw["ringbuf-write"] = b""
    has(env.run("console", "g", "--timeout", "3", stdin=b"x", code=3).err, "did not say within 3.0")
