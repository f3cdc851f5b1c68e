# SPDX-License-Identifier: MIT
"""godwit status, start, stop, reset; and hosts that answer nonsense."""
import json
import os
import random
import subprocess

from env import Failed, equal, has, lacks
from fakehost import Drop, FakeHost, QmpError, guest


def test_table(env):
    FakeHost(env, "a", guests=[guest("linux1", "a", epoch=7),
                               guest("tiny", "a", number=2, status="prelaunch", running=False)])
    FakeHost(env, "b")
    p = env.run("status", code=0)
    lines = p.out.splitlines()
    head = next(l for l in lines if l.startswith("Virtual Machine"))
    row = next(l for l in lines if l.startswith("linux1"))
    has(head, "VM #", "OS Type", "State", "#VCPUs", "#Devs", "#Nets", "Memory", "Owner", "Epoch",
        "Uptime")
    equal(row.split(), ["linux1", "1", "linux", "running", "1", "4", "0", "128.0", "MiB", "a", "a",
                        "7", "1", "h", "02", "m"])
    for title in ("OS Type", "State", "Owner"):  # left-aligned columns begin under their titles
        if row[head.index(title)] == " " or row[head.index(title) - 1] != " ":
            raise Failed(p.out)
    has(p.out, "2.0 GiB", "1.0 GiB", "12.0 MiB", "2 h 00 m", "Fake CPU")
    lacks(p.out, "[Attention]")
    for line in lines:
        equal(line, line.rstrip())


def test_attention(env):
    a = FakeHost(env, "a", guests=[guest("dead", "a", status="internal-error", running=False,
                                         **{"exit-reason": "EPT violation at 0x1000"})])
    a.info["config-errors"] = ["line 12: memory=12Q: use K, M or G"]
    a.info["records-error"] = "firmware's store is full"
    b = FakeHost(env, "b")
    b.info["vmx"] = {"usable": False, "missing": ["VMX off in firmware", "EPT"],
                     "remedy": "enable VT-x in the firmware set-up"}
    p = env.run("status", code=0)
    has(p.out, "MISSING", "host 'b' cannot run guests; missing: VMX off in firmware, EPT. Remedy:"
        " enable VT-x in the firmware set-up", "configuration: line 12: memory=12Q",
        "host 'a', what must survive a restart: firmware's store is full",
        "guest 'dead' on 'a' is internal-error: EPT violation at 0x1000")


def test_json(env):
    FakeHost(env, "a", guests=[guest("linux1", "a")])
    env.hosts["gone"] = "127.0.0.1:1"
    got = json.loads(env.run("status", "--json", code=3).out)
    a, gone = got["hosts"]
    equal((a["name"], a["answered"], a["host"]["memory-total"]), ("a", True, 2 << 30))
    equal(a["guests"][0]["name"], "linux1")
    equal(gone["answered"], False)
    has(gone["error"], "refuses connections")


def test_result_that_cannot_be_written(env):
    h = FakeHost(env, "a", guests=[guest("g", "a")])
    h.info["config-errors"] = ["y" * 100_000]  # more than a buffer
    for args, code in ((("status", "--json"), 1), (("status",), 1), (("reset", "g", "--json"), 4), (("reset", "g"), 4)):
        for closed in (False, True):
            with open("/dev/full", "w") as full:
                p = env.start(*args, stdout=full, stderr=subprocess.PIPE, text=True,
                              preexec_fn=(lambda: os.close(1)) if closed else None)
                _, err = p.communicate(timeout=60)
            equal((args, closed, p.returncode), (args, closed, code))
            has(err, "could not be written to standard output")


def test_only_the_hosts_named(env):
    FakeHost(env, "a")
    b = FakeHost(env, "b")
    env.run("status", "a", code=0)
    equal(b.calls, [])


def test_text_from_hosts_is_made_harmless(env):
    h = FakeHost(env, "a", guests=[guest("x\x1b[2J\x07y", "a", **{"os-type": "\u009b31m"})])
    h.info["cpu"] = "evil\r\n\x1b]0;title\x07" + "x" * 500
    h.info["config-errors"] = ["\x1b[31mred"]
    p = env.run("status", code=0)
    lacks(p.out, "\x1b", "\x07", "\r", "\u009b")
    has(p.out, "x?[2J?y")


def test_json_is_utf_8_whatever_comes(env):
    h = FakeHost(env, "a")
    good = "\u00e9\u20ac\U0001f600 "
    for bad in (b"\xff", b"\xc3", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"\x9b31m"):
        h.raw["query-host"] = b'{"return":{"cpu":"' + good.encode() + bad + b'"},"id":1}\n'
        p = env.run("status", "--json", code=0)
        text = json.loads(p.stdout.decode("utf-8"))["hosts"][0]["host"]["cpu"]
        equal((text[:4], "?" in text), (good, True))
    h.raw.clear()
    p = env.run("reset", b"g\xff", "--json", code=1)
    has(json.loads(p.stdout.decode("utf-8"))["error"], "'g?'")
    # A long text of a host is cut where it ends.
    for n in range(4):
        def refuse(_args, n=n):
            raise QmpError("GenericError", "x" * n + "\u20ac" * 500)
        h.handlers["query-guests"] = refuse
        json.loads(env.run("status", "--json", code=3).stdout.decode("utf-8"))


def test_guest_commands(env):
    a = FakeHost(env, "a", guests=[guest("g", "a", status="prelaunch", running=False)])
    FakeHost(env, "b")
    has(env.run("start", "g", code=0).out, "'g' on host 'a' was started; it is now running")
    has(env.run("start", "g", code=1).err, "running already")
    env.run("reset", "g", code=0)
    equal(json.loads(env.run("stop", "g", "--json", code=0).out),
          {"guest": "g", "host": "a", "done": "system_powerdown", "status": "shutdown"})
    env.run("start", "g", code=0)
    equal(json.loads(env.run("stop", "g", "--force", "--json", code=0).out),
          {"guest": "g", "host": "a", "done": "guest-stop", "status": "shutdown"})
    equal([c for c in a.calls if not c[0].startswith("query")],
          [(c, {"guest": "g"}) for c in ("guest-start", "guest-start", "system_reset", "system_powerdown", "guest-start",
                                         "guest-stop")])


def test_stop_asks_the_guest(env):
    a = FakeHost(env, "a", guests=[guest("g", "a"), guest("p", "a", status="paused", running=False)])
    has(env.run("stop", "g", code=0).out, "Guest 'g' on host 'a' was shut down; it is now shutdown.")
    env.run("stop", "p", code=0)  # it cannot be asked
    equal([c[0] for c in a.calls if not c[0].startswith("query")], ["system_powerdown", "guest-stop"])
    # It takes its time; or it never does it.
    a.find("g").update(status="running", running=True)
    a.handlers["system_powerdown"] = lambda args: None
    p = env.run("stop", "g", "--wait", "1", code=6)
    has(p.err, "was asked to shut down, but still runs after 1 s", "--force")
    asked = []

    def later(args):
        asked.append(1)
        if len(asked) > 3:
            a.find("g").update(status="shutdown", running=False)
        return a.guests
    a.handlers["query-guests"] = later
    has(env.run("stop", "g", code=0).out, "was shut down")
    del a.handlers["query-guests"]
    # It was on its way to another host.
    a.find("g").update(status="running", running=True)
    a.handlers["system_powerdown"] = lambda args: a.find("g").update(status="postmigrate", running=False, owner="b")
    has(env.run("stop", "g", code=6).err, "moved to host 'b' meanwhile: stop it there")

    def deaf(_args):
        raise QmpError("GenericError", "guest g does not listen to its power button")
    a.find("g").update(status="running", running=True, owner="a")
    a.handlers["system_powerdown"] = deaf
    has(env.run("stop", "g", code=1).err, "does not listen")
    equal(a.find("g")["status"], "running")
    has(env.run("start", "g", "--wait", "3", code=2).err, "--wait is for 'godwit stop'")


def test_stop_in_the_freeze_of_a_move_switches_nothing_off(env):
    a = FakeHost(env, "a", guests=[guest("g", "a")])

    def runs_again(_args):
        a.find("g").update(status="running", running=True)
        raise QmpError("GenericError", "guest g is finish-migrate: only a running guest can shut itself down")
    a.handlers["system_powerdown"] = a.handlers["guest-stop"] = runs_again
    for status in ("finish-migrate", "inmigrate"):
        a.find("g").update(status=status, running=False)
        has(env.run("stop", "g", code=1).err, "only a running guest")
    equal([c for c, _ in a.calls if not c.startswith("query")], ["system_powerdown"] * 2)


def test_stop_in_the_commit_of_a_move(env):
    a = FakeHost(env, "a", guests=[guest("g", "a")])
    steps = [("finish-migrate", "?"), ("paused", "?"), ("postmigrate", "b")]

    def moves(_args):
        if any(c == "system_powerdown" for c, _ in a.calls):
            status, owner = steps.pop(0) if len(steps) > 1 else steps[0]
            a.find("g").update(status=status, running=False, owner=owner)
        return a.guests
    a.handlers["system_powerdown"] = lambda args: None
    a.handlers["query-guests"] = moves
    has(env.run("stop", "g", code=6).err, "moved to host 'b' meanwhile: stop it there")


def test_stop_of_a_guest_that_dies(env):
    a = FakeHost(env, "a", guests=[guest("g", "a")])
    for status in ("guest-panicked", "internal-error"):
        a.find("g").update(status="running", running=True)
        a.handlers["system_powerdown"] = lambda args, status=status: a.find("g").update(
            status=status, running=False, **{"exit-reason": "its kernel panicked"})
        has(env.run("stop", "g", code=6).err, "was asked to shut down, and died: its kernel panicked")
    # Somebody has deleted it: it was asked, so it is not so that nothing was changed.
    a.find("g").update(status="running", running=True)
    a.handlers["system_powerdown"] = lambda args: a.guests.clear()
    has(env.run("stop", "g", code=4).err, "asked the guest 'g' to shut down")


def test_definition_that_a_silent_host_may_have(env):
    a = FakeHost(env, "a", guests=[guest("g", "a", status="prelaunch", running=False)])
    env.hosts["gone"] = "127.0.0.1:1"
    for args in (("delete", "g"), ("change", "g", "vcpus=2")):
        has(env.run(*args, code=3).err, "not all hosts could be asked (not: gone)", "--host")
        equal([c for c, _ in a.calls if not c.startswith("query")], [])
    env.run("change", "g", "vcpus=2", "--host", "a", code=0)
    p = env.run("delete", "g", "--host", "gone", code=3)
    has(p.err, "host 'gone' (127.0.0.1:1) refuses connections")
    lacks(p.err, "say --host")


def test_time_that_is_none(env):
    a = FakeHost(env, "a")
    for answer in ("5", "[1,2]", "null", '"x"'):
        a.raw["query-time"] = b'{"return":%s,"id":2}\n' % answer.encode()
        has(json.loads(env.run("time", "--json", code=3).out)[0]["error"], "answered query-time with no object")
        has(env.run("time", code=3).out, "answered query-time with no object")
    a.raw["query-time"] = b'{"return":{"state":"synchronized","source":"10.0.0.1"},"id":2}\n'
    lacks(env.run("time", code=0).out, "nan")


def test_definitions(env):
    a = FakeHost(env, "a")
    b = FakeHost(env, "b", guests=[guest("g", "b")])
    has(env.run("create", "n", "kernel=k", code=2).err, "--host")
    has(env.run("create", "g", "kernel=k", "--host", "a", code=1).err, "host 'b' has a guest 'g' already")
    has(env.run("create", "n", "--host", "a", code=2).err, "KEY=VALUE")
    has(env.run("create", "n", "kernel", "--host", "a", code=2).err, "is not KEY=VALUE")
    has(env.run("create", "n", "kernel=k", "--host", "c", code=2).err, "host 'c' is not in hosts.ini")
    out = env.run("create", "n", "kernel=k", "cmdline=a=b c", "disk=ram:1M", "disk=ram:2M", "disk=ram:3M", "--host", "a", code=0).out
    has(out, "Guest 'n' on host 'a' was created.")
    equal([x for x in a.calls if x[0] == "guest-create"],
          [("guest-create", {"guest": "n", "kernel": "k", "cmdline": "a=b c", "disk": ["ram:1M", "ram:2M", "ram:3M"]})])
    has(env.run("change", "n", "memory=64M", code=0).out, "was changed")
    has(env.run("delete", "n", "x=1", code=2).err, "takes no KEY=VALUE")
    a.handlers["guest-change"] = lambda args: {"warning": "a restart of this host will undo \x1b[2J it: full"}
    p = env.run("change", "n", "memory=32M", code=0)
    has(p.err, "but a restart of this host will undo", "it: full")
    lacks(p.err, "\x1b")
    has(json.loads(env.run("change", "n", "memory=32M", "--json", code=0).out)["warning"], "it: full")
    equal(json.loads(env.run("delete", "n", "--json", code=0).out), {"guest": "n", "host": "a", "done": "guest-delete"})
    has(env.run("delete", "n", code=1).err, "no host has a guest called 'n'")
    equal([x[0] for x in b.calls if not x[0].startswith("query")], [])


def test_time(env):
    FakeHost(env, "a")
    h = FakeHost(env, "b")
    h.handlers["query-time"] = lambda args: {"state": "no-servers", "source": "", "servers": []}
    out = env.run("time", code=0).out
    has(out, "a synchronized, source 10.0.0.1, stratum 3, offset -1.234 ms", "rate -2.500 ppm", "3.00 s ago",
        "it does not answer", "preferred", "b no-servers", "[time] servers=")
    got = json.loads(env.run("time", "a", "--json", code=0).out)
    equal((got[0]["name"], got[0]["time"]["offset-us"]), ("a", -1234))
    h.handlers["query-time"] = lambda args: {"state": 3, "offset-us": "x", "servers": 5, "source": "\x1b[2J"}
    lacks(env.run("time", "b", code=0).out, "\x1b")
    env.hosts["gone"] = "127.0.0.1:1"
    has(env.run("time", code=3).out, "refuses connections")


def test_no_such_guest(env):
    FakeHost(env, "a")
    has(env.run("stop", "q", code=1).err, "no host has a guest called 'q'")
    has(env.run("stop", "q", "--host", "a", code=1).err, "no host has a guest called 'q'")


def test_guest_on_several_hosts(env):
    a = FakeHost(env, "a", guests=[guest("g", "a", status="prelaunch", running=False)])
    b = FakeHost(env, "b", guests=[guest("g", "b", status="prelaunch", running=False)])
    has(env.run("start", "g", code=1).err, "configured on several hosts (a, b)", "--host")
    env.run("start", "g", "--host", "b", code=0)
    env.run("stop", "g", code=0)  # only b has it running
    equal([c for c, _ in b.calls if c == "system_powerdown"], ["system_powerdown"])
    a.guests[0].update(status="running", running=True)
    b.guests[0].update(status="running", running=True)
    has(env.run("stop", "g", code=1).err, "lives on more than one host")


def test_owner_decides_after_a_move(env):
    FakeHost(env, "a", guests=[guest("g", "b", status="postmigrate", running=False)])
    b = FakeHost(env, "b", guests=[guest("g", "b", epoch=2)])
    env.run("reset", "g", code=0)
    equal(b.calls[-2][0], "system_reset")


def test_start_is_careful_when_a_host_is_silent(env):
    a = FakeHost(env, "a", guests=[guest("g", "a", status="prelaunch", running=False)])
    env.hosts["gone"] = "127.0.0.1:1"
    has(env.run("start", "g", code=3).err, "not all hosts could be asked (not: gone)", "--host")
    equal(a.find("g")["status"], "prelaunch")
    env.run("start", "g", "--host", "a", code=0)
    env.run("stop", "g", code=0)  # it runs here, so the silent host does not matter


def test_access_denied(env):
    h = FakeHost(env, "a", guests=[guest("g", "a")])

    def deny(_args):
        raise QmpError("AccessDenied", "the role viewer may not guest-stop")
    h.handlers["system_powerdown"] = deny
    has(env.run("stop", "g", code=1).err, "does not allow this: the role viewer", "--identity")


def test_lost_answer_is_unknown(env):
    h = FakeHost(env, "a", guests=[guest("g", "a")])

    def drop(_args):
        raise Drop()
    h.handlers["system_powerdown"] = drop
    has(env.run("stop", "g", code=4).err, "whether it was done is not known", "godwit status a")


def test_bad_greetings(env):
    h = FakeHost(env, "a")
    for greeting, want in (
            (b"hello\n", 'not a JSON object: "hello"'),
            (b"[1]\n", "not a JSON object"),
            (b"{}\n", "did not greet"),
            (b'{"QMP":5}\n', "did not greet"),
            (b'{"QMP":{"version":{"godwit":"9","protocol":2},"host":"a"}}\n', "control protocol 2"),
            (b'{"QMP":{"version":{"godwit":"9","protocol":1},"host":"b"}}\n', "calls itself 'b'"),
            (b'{"QMP"\x00:{}}\n', "not a JSON object"),
            (b"[" * 100000 + b"\n", "not a JSON object"),
            (b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n", "not a JSON object"),
            (b'{"QMP":{}} trailing\n', "not a JSON object")):
        h.greeting = greeting
        has(env.run("status", code=3).out, want)


def test_silent_after_handshake(env):
    FakeHost(env, "a", greeting=b"")
    has(env.run("status", "--timeout", "3", code=3).out, "gave no answer to the connection within")


def test_silent_to_a_command(env):
    h = FakeHost(env, "a")
    h.raw["query-guests"] = b""
    has(env.run("status", "--timeout", "3", code=3).out, "gave no answer to query-guests within 3.0")


def test_endless_events_do_not_hold_us(env):
    h = FakeHost(env, "a")
    h.raw["query-host"] = b'{"event":"X","data":{}}\n' * 50000
    has(env.run("status", "--timeout", "3", code=3).out, "gave no answer to query-host")


def test_oversized_line(env):
    h = FakeHost(env, "a")
    h.raw["query-host"] = b"x" * (3 << 20)
    has(env.run("status", code=3).out, "a line longer than 1 MiB")


def test_long_line_is_fine(env):
    h = FakeHost(env, "a", guests=[guest("g", "a")])
    h.info["config-errors"] = ["y" * 900_000]
    has(env.run("status", "--json", code=0).out, "y" * 1000)


def test_half_a_line_then_gone(env):
    h = FakeHost(env, "a")

    def half(_args):
        h._send(h.tls, b'{"return":')
        raise Drop()
    h.handlers["query-host"] = half
    has(env.run("status", code=3).out, "closed the connection")


def test_nonsense_answers(env):
    h = FakeHost(env, "a")
    for raw, want in (
            (b'{"return":{},"id":77}\n', "an answer to nothing that was asked"),
            (b'{"return":{}}\n', "an answer to nothing that was asked"),
            (b'{"return":{},"id":-1}\n', "an answer to nothing that was asked"),
            (b'{"return":{},"id":"1"}\n', "an answer to nothing that was asked"),
            (b'{"id":1}\n', "neither return nor error"),
            (b'{"return":5,"id":1}\n', "with no object"),
            (b'{"return":null,"id":1}\n', "with no object"),
            (b"\n", "not a JSON object"),
            (b'{"error":{},"id":1}\n', "no reason given"),
            (b'{"error":{"class":5,"desc":[]},"id":1}\n', "no reason given")):
        h.raw["query-host"] = raw
        p = env.run("status")
        has(p.out, want)
        equal(p.code, 3)
    del h.raw["query-host"]
    for guests in ({}, [5], [{}], [{"name": "x"}], [{"name": 5, "status": "running"}], "g"):
        h.handlers["query-guests"] = lambda _args, g=guests: g
        has(env.run("status", code=3).out, "query-guests" if not isinstance(guests, list) else
            "without name or status")


def test_fields_of_wrong_types(env):
    h = FakeHost(env, "a", guests=[{"name": "g", "status": "running", "memory": -1, "vcpus": 1e300,
                                    "number": "x", "owner": 5, "epoch": None, "uptime-us": [],
                                    "exit-reason": {}}])
    h.info = {"vmx": [], "memory-total": -5, "uptime-us": 1e18, "config-errors": "x", "cpu": 7}
    has(env.run("status", code=0).out, "g ")
    h.info = {"vmx": {"missing": 5}, "config-errors": [5, None]}
    has(env.run("status", code=0).out, "cannot run guests")


def test_mutated_answers(env):
    """Random damage never crashes the command (the sanitizers watch in build/godwit-asan)."""
    h = FakeHost(env, "a", guests=[guest("g", "a")])
    rng = random.Random(1)
    good = h.line({"return": h.guests, "id": 2})
    for _ in range(40):
        raw = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(raw) - 1)
            choice = rng.randrange(3)
            if choice == 0:
                raw[at] = rng.randrange(256)
            elif choice == 1:
                del raw[at:at + rng.randrange(1, 9)]
            else:
                raw[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        h.raw["query-guests"] = bytes(raw) + b"\n"
        p = env.run("status", "--timeout", "0.5")
        if p.code not in (0, 3):
            raise Failed(f"exit code {p.code} for {bytes(raw)!r}\n{p.all}")
