# SPDX-License-Identifier: MIT
"""godwit migrate: progress, success, each failure, cancelling, lost connections."""
import json
import os
import signal
import socket
import subprocess
import time

from env import Failed, equal, has, lacks, wait_for
from fakehost import Drop, FakeHost, QmpError, guest

MB = 1 << 20
ROUNDS = [{"pages": 12031, "zero": 20737, "bytes": 47 * MB, "us": 3_410_000},
          {"pages": 900, "zero": 3, "bytes": 3 * MB, "us": 210_000},
          {"pages": 40, "zero": 0, "bytes": 160_000, "us": 12_000}]


def step(status="active", phase="precopy", round=0, remaining=0, rounds=0, **more):
    """One answer to query-migrate."""
    d = {"status": status, "phase": phase, "role": "source", "peer": "b", "round": round,
         "ram": {"total": 128 * MB, "transferred": 50 * MB, "remaining": remaining, "mbps": 112.5,
                 "duplicate": 20740, "normal": 12971, "pages-resent": 940, "dirty-sync-count": round,
                 "page-size": 4096},
         "rounds": ROUNDS[:rounds], "total-time": 4210, "total-time-us": 4_210_000,
         "expected-downtime": 210, "verify": "fold", "hash-verified": False}
    d.update(more)
    return d


def end(**more):
    return step("completed", "done", 3, 0, 3, **{"downtime-us": 187_000, "hash": "1f2e3d4c5b6a7988",
                                               "hash-verified": True, "epoch": 2, **more})


class Pair:
    """Hosts a and b; the guest g runs on a and moves to b when the script says so."""

    def __init__(self, env, *script, **more):
        self.env = env
        self.a = FakeHost(env, "a", guests=[guest("g", "a", **more)])
        self.b = FakeHost(env, "b")
        self.a.script = list(script) or [step("setup", "check"), step("setup", "connect"),
                                         step(round=1, remaining=128 * MB),
                                         step(round=1, remaining=64 * MB),
                                         step(round=2, remaining=3 * MB, rounds=1),
                                         step("device", "freeze", 3, MB, 2),
                                         step("device", "commit", 3, 0, 3), self.hand_over]

    def hand_over(self):
        self.a.find("g").update(status="postmigrate", running=False, owner="b", epoch=2)
        if not self.b.guests:
            self.b.guests.append(guest("g", "b", epoch=2))
        return end()


def test_success(env):
    pair = Pair(env)
    p = env.run("migrate", "g", "b", code=0)
    has(p.out, "Moving 'g' (128.0 MiB) from 'a' to 'b'", "check ok", "connect ok",
        "pre-copy round 1 12031 pages + 20737 zero, 47.0 MiB in 3.41 s (13.8 MiB/s)",
        "pre-copy round 2 900 pages + 3 zero", "freeze ok commit ok resume ok",
        "Guest 'g' now is running on 'b' (owner b, epoch 2; confirmed by 'b')",
        "total 4.21 s, freeze 187 ms, 50.0 MiB sent", "2 900 3 3.0 MiB 210 ms 14.3 MiB/s",
        "freeze 40 0 156.2 KiB 12.0 ms",
        "pages: 12971 sent, 20740 zero, 940 of them sent again",
        "memory hash (fold): the same on both hosts, 1f2e3d4c5b6a7988")
    lacks(p.out, "\x1b", "\r", "round 3")
    call = next(args for c, args in pair.a.calls if c == "migrate")
    equal(call, {"guest": "g", "host": "b", "uri": "tcp:" + env.hosts["b"]})


def test_options_reach_the_host(env):
    pair = Pair(env)
    env.hosts["b"] += "\npeer-address=10.0.2.2:4790"
    env.run("migrate", "g", "b", "--from", "a", "--verify", "full", "--freeze-budget", "150",
            "--max-rounds", "7", code=0)
    call = next(args for c, args in pair.a.calls if c == "migrate")
    equal(call, {"guest": "g", "host": "b", "uri": "tcp:10.0.2.2:4790", "verify": "full",
                 "downtime-limit": 150, "max-rounds": 7})


def test_json(env):
    Pair(env)
    p = env.run("migrate", "g", "b", "--json", code=0)
    got = json.loads(p.out)
    equal((got["outcome"], got["from"], got["to"], got["owner"], got["epoch"], got["exit-code"]),
          ("completed", "a", "b", "b", 2, 0))
    equal(got["migration"]["downtime-us"], 187_000)
    equal(p.err, "")


def test_usage(env):
    Pair(env)
    for args in (("g",), (), ("g", "b", "c"), ("g", "b", "--verify", "x"),
                 ("g", "b", "--freeze-budget", "-1"), ("g", "b", "--max-rounds", "1.5")):
        env.run("migrate", *args, code=2)
    has(env.run("migrate", "g", "q", code=2).err, "no host is called 'q'", "knows a, b")
    has(env.run("migrate", "q", "b", code=1).err, "no host has a guest called 'q'")
    has(env.run("migrate", "g", "a", code=1).err, "is on 'a' already")


def test_guest_that_is_off(env):
    Pair(env, status="shutdown", running=False)
    has(env.run("migrate", "g", "b", code=1).err, "in the state 'shutdown'", "godwit start g")


def test_peer_address_must_be_an_ip(env):
    pair = Pair(env)
    env.hosts["b"] = env.hosts["b"].replace("127.0.0.1", "localhost")
    has(env.run("migrate", "g", "b", code=1).err, "'localhost'", "peer-address=IP:PORT", "[b]")
    equal(pair.a.calls, [])


def test_target_not_reachable_or_without_vtx(env):
    pair = Pair(env)
    pair.b.info["vmx"] = {"usable": False, "missing": ["EPT"], "remedy": "use another machine"}
    has(env.run("migrate", "g", "b", code=1).err, "'b' cannot run guests", "use another machine")
    pair.b.close()
    has(env.run("migrate", "g", "b", code=3).err, "host 'b'", "refuses connections")
    equal([c for c, _ in pair.a.calls if c == "migrate"], [])


def test_refused_by_the_source(env):
    pair = Pair(env)

    def busy(_args):
        raise QmpError("GenericError", "guest 'g' is being migrated already")
    pair.a.handlers["migrate"] = busy
    has(env.run("migrate", "g", "b", code=1).err, "host 'a': guest 'g' is being migrated already")


def test_failure_before_commit(env):
    Pair(env, step(round=1, remaining=MB),
         step("failed", "precopy", 1, **{"error-desc": "host 'b': not enough memory: free 64 MiB"}))
    p = env.run("migrate", "g", "b", code=1)
    has(p.err, "the move of 'g' failed in phase 'precopy': host 'b': not enough memory: free 64 MiB",
        "Nothing was changed: the guest is running on 'a' (owner a, epoch 1)")
    p = env.run("migrate", "g", "b", "--json", code=1)
    equal(json.loads(p.out)["outcome"], "failed")


def test_failure_without_the_guest_is_unknown(env):
    pair = Pair(env)

    def lose():
        pair.a.guests[0].update(status="internal-error", **{"exit-reason": "triple fault"})
        return step("failed", "freeze", **{"error-desc": "x"})
    pair.a.script = [lose]
    has(env.run("migrate", "g", "b", "--timeout", "3", code=4).err, "not confirmed",
        "'internal-error'", "triple fault", "godwit status")


def test_completed_but_not_confirmed(env):
    pair = Pair(env, end())
    has(env.run("migrate", "g", "b", "--timeout", "3", code=4).err, "'b' did not confirm",
        "does not run on 'a'", "has no guest 'g'")
    pair.a.find("g").update(status="running", owner="a")
    pair.a.script = [lambda: (pair.b.close(), end())[1]]
    has(env.run("migrate", "g", "b", "--timeout", "3", code=4).err, "'b' did not confirm",
        "refuses connections")


def test_target_is_slow_to_resume(env):
    pair = Pair(env, end())
    pair.b.guests.append(guest("g", "b", status="inmigrate", owner="a"))
    answers = []

    def soon(_args):
        answers.append(1)
        if len(answers) > 3:
            pair.b.guests[0].update(status="running", owner="b", epoch=2)
        return pair.b.guests
    pair.b.handlers["query-guests"] = soon
    env.run("migrate", "g", "b", "--from", "a", code=0)


def test_moved_and_died(env):
    pair = Pair(env, end())
    pair.b.guests.append(guest("g", "b", status="internal-error", owner="b",
                               **{"exit-reason": "VM entry failed"}))
    p = env.run("migrate", "g", "b", "--timeout", "3", code=6)
    has(p.err, "was moved to 'b' but does not run", "VM entry failed")


def test_cancel_with_ctrl_c(env):
    pair = Pair(env, step(round=1, remaining=100 * MB))

    def cancel(_args):
        pair.a.script = [step("cancelling", round=1, remaining=90 * MB),
                         step("cancelled", round=1)]
    pair.a.handlers["migrate_cancel"] = cancel
    p = env.start("migrate", "g", "b", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(c == "query-migrate" for c, _ in pair.a.calls))
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    equal(p.returncode, 5)
    has(out, "asked 'a' to cancel")
    has(err, "the move of 'g' was cancelled. Nothing was changed: the guest is running on 'a'")


def test_cancel_too_late(env):
    pair = Pair(env, step("device", "commit"))

    def refuse(_args):
        pair.a.script = [step("wait-commit", "commit"), pair.hand_over]
        raise QmpError("GenericError", "COMMIT was sent; it cannot be cancelled any more")
    pair.a.handlers["migrate_cancel"] = refuse
    p = env.start("migrate", "g", "b", stdout=subprocess.PIPE, text=True)
    wait_for(lambda: any(c == "query-migrate" for c, _ in pair.a.calls))
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=60)
    equal(p.returncode, 0)
    has(out, "cannot cancel: host 'a': COMMIT was sent", "now is running on 'b'")


def test_second_ctrl_c_leaves(env):
    pair = Pair(env, step(round=1, remaining=100 * MB))
    pair.a.handlers["migrate_cancel"] = lambda _args: {}
    p = env.start("migrate", "g", "b", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(c == "query-migrate" for c, _ in pair.a.calls))
    p.send_signal(signal.SIGINT)
    wait_for(lambda: any(c == "migrate_cancel" for c, _ in pair.a.calls))
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    equal(p.returncode, 4)
    has(err, "left while guest 'g' was in phase 'precopy'", "migrate-status g --follow")


def test_connection_lost_and_found(env):
    pair = Pair(env)

    def drop():
        pair.a.script = [step(round=1, remaining=MB), pair.hand_over]
        raise Drop()
    pair.a.script = [step(round=1, remaining=2 * MB), drop, None]
    p = env.run("migrate", "g", "b", code=0)
    has(p.out, "lost the connection to 'a', trying again", "connected to 'a' again",
        "now is running on 'b'")


def test_source_gone_but_target_has_it(env):
    pair = Pair(env)

    def die():
        pair.hand_over()
        pair.a.close()
        raise Drop()
    pair.a.script = [step(round=1, remaining=2 * MB), die, None]
    p = env.run("migrate", "g", "b", "--timeout", "3", code=0)
    has(p.out, "'a' cannot be asked", "'b' says that it has the guest", "now is running on 'b'")


def test_source_gone_and_outcome_unknown(env):
    pair = Pair(env)

    def die():
        pair.b.guests.append(guest("g", "a", status="inmigrate", running=False))
        pair.a.close()
        raise Drop()
    pair.a.script = [step("device", "freeze", 2, MB), die, None]
    p = env.run("migrate", "g", "b", "--timeout", "3", code=4)
    has(p.err, "lost the host 'a' in phase 'freeze' of the move of 'g' to 'b'",
        "how it ended is not known", "'b' says that guest 'g' is in the state 'inmigrate'",
        "never runs on both", "'godwit status a b' shows the owner")


def test_both_gone(env):
    pair = Pair(env)

    def die():
        pair.a.close()
        pair.b.close()
        raise Drop()
    pair.a.script = [die]
    p = env.run("migrate", "g", "b", "--timeout", "3", "--json", code=4)
    equal(json.loads(p.out)["outcome"], "unknown")
    has(p.err, "how it ended is not known")


def test_request_lost(env):
    pair = Pair(env)

    def drop(_args):
        pair.a.script = [step("none", "")]
        raise Drop()
    pair.a.handlers["migrate"] = drop
    p = env.run("migrate", "g", "b", code=1)
    has(p.out, "lost the answer to 'migrate'")
    has(p.err, "knows of no migration", "Nothing was changed", "running on 'a'")

    def drop_later(_args):  # it came there by a move
        pair.a.script = [end(role="target")]
        raise Drop()
    pair.a.handlers["migrate"] = drop_later
    has(env.run("migrate", "g", "b", code=1).err, "knows of no migration", "Nothing was changed", "running on 'a'")


def test_request_lost_and_not_followed(env):
    pair = Pair(env)

    def drop(_args):
        raise Drop()
    pair.a.handlers["migrate"] = drop
    has(env.run("migrate", "g", "b", "--detach", code=4).err, "whether it was started is not known", "migrate-status g")
    equal(json.loads(env.run("migrate", "g", "b", "--detach", "--json", code=4).out)["outcome"], "unknown")


def test_request_is_taken_back(env):
    """A command without an answer must not arrive after its outcome was told: the connection is reset."""
    pair = Pair(env, step("none", ""))
    ends = []

    def busy(_args):
        tls = pair.a.tls
        pair.a.connections.remove(tls)  # an event sent to it would take the error
        time.sleep(4)
        try:
            ends.append(socket.socket.recv(tls, 100000))
            ends.append(socket.socket.recv(tls, 100000))
        except ConnectionResetError:
            ends.append("reset")
        raise Drop()
    pair.a.handlers["migrate"] = busy
    has(env.run("migrate", "g", "b", "--timeout", "3", code=1).err, "knows of no migration")
    wait_for(lambda: ends)
    equal(ends, ["reset"])


def test_silent_source(env):
    pair = Pair(env, step(round=1))
    pair.a.raw["query-migrate"] = b""
    q = env.start("migrate", "g", "b", "--timeout", "2", stdout=subprocess.PIPE, text=True)
    # It keeps asking: a source that is only busy must not be given up.
    wait_for(lambda: sum(c == "query-migrate" for c, _ in pair.a.calls) >= 3)
    equal(q.poll(), None)
    pair.a.raw.clear()
    pair.a.script = [pair.hand_over]
    begin = time.monotonic()
    out, _ = q.communicate(timeout=60)
    equal(q.returncode, 0)
    has(out, "lost the connection to 'a', trying again")
    if time.monotonic() - begin > 20:
        raise Failed("took too long")


def test_source_that_will_not_tell(env):
    pair = Pair(env)

    def refuse(_args):
        raise QmpError("GenericError", "no")
    pair.a.handlers["query-migrate"] = refuse
    has(env.run("migrate", "g", "b", code=4).err, "does not tell how the move of 'g' goes")


def test_nonsense_from_query_migrate(env):
    pair = Pair(env)
    for answer in ([], {}, {"status": 5}, 7):
        pair.a.script = [answer]
        has(env.run("migrate", "g", "b", "--timeout", "3", code=4).err, "without a status")
    wild = {"status": "active", "phase": "\x1b[2J", "round": -1, "rounds": [5] * 200, "ram": "x"}
    wild2 = step(round=1e17, remaining=1e18, rounds=3, **{"expected-downtime": 1e18})
    pair.a.script = [wild, wild2, step(round=2, remaining=-5), step(phase="resume"),
                     step(phase="check"), pair.hand_over]
    lacks(env.run("migrate", "g", "b", code=0).out, "\x1b")


def test_detach_then_status_and_follow(env):
    pair = Pair(env, step(round=1, remaining=MB))
    has(env.run("migrate", "g", "b", "--detach", code=0).out, "godwit migrate-status")
    equal([c for c, _ in pair.a.calls if c == "query-migrate"], [])
    has(env.run("migrate-status", "g", code=0).out, "migration active", "the other host is 'b'",
        "phase precopy, round 1, 50.0 MiB sent, 1.0 MiB remain")
    equal(json.loads(env.run("migrate-status", "g", "--json", code=0).out)["round"], 1)
    pair.a.script = [step(round=1, remaining=MB), step(round=2, rounds=1), pair.hand_over]
    has(env.run("migrate-status", "g", "--follow", code=0).out, "pre-copy round 1",
        "now is running on 'b'")


def test_follow_of_what_has_ended_tells_how(env):
    pair = Pair(env, step("failed", "precopy", 1, **{"error-desc": "host 'b': not enough memory"}))
    has(env.run("migrate-status", "g", code=0).out, "migration failed")  # it only shows
    has(env.run("migrate-status", "g", "--follow", code=1).err, "failed in phase 'precopy'", "not enough memory")
    equal(json.loads(env.run("migrate-status", "g", "--follow", "--json", code=1).out)["outcome"], "failed")
    pair.a.script = [step("cancelled")]
    env.run("migrate-status", "g", "--follow", code=5)
    pair.hand_over()  # now b is asked, which got it
    pair.b.script = [end(role="target", peer="a")]
    has(env.run("migrate-status", "g", "--follow", code=0).out, "now is running on 'b' (owner b, epoch 2; confirmed by 'b')")
    got = json.loads(env.run("migrate-status", "g", "--follow", "--json", code=0).out)
    equal((got["outcome"], got["from"], got["to"]), ("completed", "a", "b"))


def test_migrate_cancel(env):
    pair = Pair(env, step("cancelling"), step("cancelled"))
    pair.a.handlers["migrate_cancel"] = lambda _args: {}
    has(env.run("migrate-cancel", "g", code=0).out, "was cancelled. Nothing was changed")
    pair.a.script = [step("cancelled")]
    got = json.loads(env.run("migrate-cancel", "g", "--json", code=0).out)
    equal((got["outcome"], got["exit-code"], "error" in got), ("cancelled", 0, False))
    pair.a.script = [{}]  # it was asked to cancel, so nobody can say that nothing was changed
    has(env.run("migrate-cancel", "g", code=4).err, "lost 'a' while cancelling")

    def none(_args):
        raise QmpError("GenericError", "guest 'g' is not being migrated")
    pair.a.handlers["migrate_cancel"] = none
    has(env.run("migrate-cancel", "g", code=1).err, "is not being migrated")
    pair.a.handlers["migrate_cancel"] = lambda _args: {}
    pair.a.script = [pair.hand_over]
    has(env.run("migrate-cancel", "g", code=6).err, "too late to cancel: 'g' now runs on 'b'")


def test_migrate_cancel_on_the_target(env):
    pair = Pair(env)
    pair.b.guests.append(guest("g", "a", status="inmigrate", running=False))
    pair.b.script = [step("cancelling", role="target", peer="a"), step("cancelled", role="target", peer="a")]
    pair.b.handlers["migrate_cancel"] = lambda _args: pair.b.guests.clear()
    pair.b.handlers["query-migrate"] = lambda _args: pair.b.script.pop(0) if len(pair.b.script) > 1 else pair.b.script[0]
    has(env.run("migrate-cancel", "g", "--host", "b", code=0).out, "was cancelled. Nothing was changed: the guest is running on 'a'")


def test_cancel_is_asked_again_when_it_was_lost(env):
    pair = Pair(env, step(round=1, remaining=100 * MB))
    asked = []

    def cancel(_args):
        asked.append(1)
        if len(asked) == 1:
            raise Drop()
        pair.a.script = [step("cancelled", round=1)]
    pair.a.handlers["migrate_cancel"] = cancel
    p = env.start("migrate", "g", "b", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(c == "query-migrate" for c, _ in pair.a.calls))
    p.send_signal(signal.SIGTERM)
    wait_for(lambda: asked)
    try:
        _, err = p.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        raise Failed("it goes on, and nobody has told the host to cancel") from None
    equal((p.returncode, len(asked)), (5, 2))
    has(err, "the move of 'g' was cancelled")


def test_terminal_display(env):
    pair = Pair(env)
    t = env.terminal("migrate", "g", "b")
    equal(t.wait(), 0)
    has(t.text, "pre-copy round 1", "50% 64.0 MiB left, 14.1 MB/s", "###...", "; freeze ~210 ms",
        "(predicted 210 ms)", "freeze ok", "now is running on 'b'")
    for line in t.text.split("\n"):
        shown = line.rstrip("\r").split("\r\x1b[K")[-1]
        if "\x1b" in shown:
            raise Failed(repr(line))
    for part in t.text.split("\r\x1b[K"):
        if "%" in part and len(part.split("\r\n")[0]) > 79:
            raise Failed("wider than the terminal: " + repr(part))
    equal(pair.b.find("g")["owner"], "b")


def test_terminal_ctrl_c(env):
    pair = Pair(env, step(round=1, remaining=100 * MB))

    def cancel(_args):
        pair.a.script = [step("cancelled", round=1)]
    pair.a.handlers["migrate_cancel"] = cancel
    t = env.terminal("migrate", "g", "b")
    t.read_until("pre-copy")
    t.type(b"\x03")
    equal(t.wait(), 5)
    has(t.text, "asked 'a' to cancel", "was cancelled. Nothing was changed")


def test_interrupt_before_the_start_changes_nothing(env):
    pair = Pair(env)
    pair.a.raw["query-guests"] = b""
    p = env.start("migrate", "g", "b", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: pair.a.calls)
    os.kill(p.pid, signal.SIGINT)
    p.wait(timeout=60)
    equal(p.returncode, -signal.SIGINT)
    equal([c for c, _ in pair.a.calls if c == "migrate"], [])
