# SPDX-License-Identifier: MIT
"""Every way in which a host cannot be reached or authenticated has its own text and exit code 3."""
import os
import socket
import ssl
import threading
import time

from env import Env, Failed, equal, has, lacks
from fakehost import FakeHost, guest


def raw_server(env, name, talk):
    """A TCP server that is no Godwit host: talk(socket) for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    env.hosts[name] = f"127.0.0.1:{listener.getsockname()[1]}"
    env.cleanups.append(listener.close)

    def serve():
        while True:
            try:
                s, _ = listener.accept()
                talk(s)
            except OSError:
                return
    threading.Thread(target=serve, daemon=True).start()


def greeter(data):
    """Says something at once, and listens until the other end has gone: a close with unread bytes would take back what was said."""
    def talk(s):
        try:
            s.sendall(data)
            while s.recv(4096):
                pass
        except OSError:
            pass
        s.close()
    return talk


def fails(env, *parts, options=()):
    p = env.run("status", *options, code=3)
    has(p.out + p.err, *parts)
    return p


def test_good_connection(env):
    h = FakeHost(env, "a")
    env.run("status", code=0)
    equal(h.seen["organizationalUnitName"], "admin")


def test_expired_certificate(env):
    FakeHost(env, "a", esp=env.enroll("a", "--days", "-1"))
    fails(env, "host 'a'", "expired on 20", "godwit ca enroll a --force")


def test_certificate_of_the_future(env):
    FakeHost(env, "a", esp=env.enroll("a", "--test-start-days", "5"))
    fails(env, "valid only from 20", "clock")


def test_certificate_of_another_ca(env):
    other = Env(env.binary, env.folder)
    other.dir = os.path.join(env.folder, "other")
    other.run("ca", "init", "--cluster", "evil", code=0)
    esp = other.enroll("a")
    FakeHost(env, "a", esp=esp, client_ca=env.dir + "/ca.crt")
    fails(env, "not of your cluster's CA", "evil CA")


def test_certificate_with_another_role(env):
    FakeHost(env, "a", esp=env.enroll("a", "--test-ou", "admin"))
    fails(env, "the role 'admin'", "not that of a host")


def test_certificate_of_a_person_as_host(env):
    esp = env.enroll("a")
    env.run("ca", "enroll", "mallory", "--role", "operator", code=0)
    for kind in ("crt", "key"):
        os.replace(f"{env.dir}/identities/mallory.{kind}", f"{esp}/host.{kind}")
    FakeHost(env, "a", esp=esp)
    fails(env, "correct the address")  # the name is wrong already
    env.run("ca", "enroll", "a", "--role", "admin", code=0)
    for kind in ("crt", "key"):
        os.replace(f"{env.dir}/identities/a.{kind}", f"{esp}/host.{kind}")
    FakeHost(env, "a", esp=esp)
    fails(env, "the role 'admin'", "Do not trust it")


def test_certificate_of_another_name(env):
    FakeHost(env, "a", esp=env.enroll("a", "--test-dns", "b"))
    fails(env, "is 'b', not 'a'", "hosts.ini")


def test_refused_because_of_our_ca(env):
    other = Env(env.binary, env.folder)
    other.dir = os.path.join(env.folder, "other")
    other.run("ca", "init", code=0)
    FakeHost(env, "a", client_ca=other.dir + "/ca.crt")
    fails(env, "refused us with the TLS alert unknown_ca", "enrolled with another CA")


def test_each_alert_has_its_text(env):
    number = [0]

    def alert(s):
        s.recv(4096)
        greeter(bytes([0x15, 3, 3, 0, 2, 2, number[0]]))(s)
    raw_server(env, "a", alert)
    for n, name in ((40, "handshake_failure"), (42, "bad_certificate"), (45, "certificate_expired"),
                    (46, "certificate_unknown"), (48, "unknown_ca"), (49, "access_denied"),
                    (51, "decrypt_error"), (70, "protocol_version"), (80, "internal_error"),
                    (116, "certificate_required"), (120, "no_application_protocol"), (99, "number 99")):
        number[0] = n
        fails(env, "host 'a'", "refused us with the TLS alert " + name)


def test_not_tls(env):
    raw_server(env, "a", greeter(b"SSH-2.0-OpenSSH_9.2\r\n"))
    fails(env, 'does not speak TLS (it sent "SSH-2.0-OpenSSH_9.2', "another program")


def test_not_tls_binary(env):
    raw_server(env, "a", greeter(b"\x1b[31m\x00\xff" * 20))
    fails(env, 'does not speak TLS (it sent ".[31m..')


def test_tls_1_2_only(env):
    FakeHost(env, "a", max_version=ssl.TLSVersion.TLSv1_2)
    fails(env, "host 'a'", "TLS 1.3")


def test_no_alpn(env):
    FakeHost(env, "a", alpn=None)
    fails(env, "without godwit-qmp/1")


def test_refused(env):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))  # ours, and nobody listens
    env.cleanups.append(s.close)
    env.hosts["a"] = f"127.0.0.1:{s.getsockname()[1]}"
    fails(env, "host 'a'", "refuses connections", "the machine is up")


def dead_host(env, name):
    """A full backlog: the kernel drops further SYNs, as a machine that is off does."""
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen(0)
    env.hosts[name] = f"127.0.0.1:{s.getsockname()[1]}"
    env.cleanups.append(s.close)
    for _ in range(4):
        fill = socket.socket()
        fill.setblocking(False)
        fill.connect_ex(s.getsockname())
        env.cleanups.append(fill.close)


def test_no_answer_to_connect(env):
    dead_host(env, "a")
    fails(env, "does not answer: no connection within 0.5 s", "Is it on", options=("--timeout", "0.5"))


def test_dead_hosts_cost_one_timeout_together(env):
    for name in "abcdef":
        dead_host(env, name)
    h = FakeHost(env, "z", guests=[guest("g", "z")])
    begin = time.monotonic()
    p = fails(env, "host 'f'", "no connection within 3.0 s", options=("--timeout", "3"))
    if time.monotonic() - begin > 9:  # of 18
        raise Failed("one after the other")
    has(p.out, "g ", "linux")
    equal(("query-host", {}) in h.calls, True)


def test_silent_in_handshake(env):
    keep = []
    raw_server(env, "a", keep.append)
    fails(env, "silent in the TLS handshake for 0.3 s", options=("--timeout", "0.3"))


def test_closes_at_once(env):
    raw_server(env, "a", lambda s: s.close())
    p = env.run("status", code=3)
    if "closed the connection during the TLS handshake" not in p.out and "reset" not in p.out:
        raise Failed(p.all)


def test_no_address(env):
    env.enroll("a")
    has(env.run("status", keep_hosts=True, code=3).out, "host 'a' has no address", "address=IP:PORT")


def test_bad_hosts_ini(env):
    for text, want in (("[a]\naddress=1.2.3.4:x\n", "line 2: [a] address: '1.2.3.4:x'"),
                       ("[a]\nadress=1.2.3.4\n", "no setting 'adress'"),
                       ("[a b]\naddress=1.2.3.4\n", "not a host name"),
                       ("[a]\nnonsense\n", "line 2"),
                       ("address=1\n", "[NAME]"),
                       ("[a]\naddress=" + "9" * 3000 + "\n", "line 2")):
        with open(env.dir + "/hosts.ini", "w") as f:
            f.write(text)
        has(env.run("status", keep_hosts=True, code=1).err, "hosts.ini", want)


def test_hosts_ini_that_cannot_be_read(env):
    os.mkdir(env.dir + "/hosts.ini")
    has(env.run("status", code=1).err, "cannot read " + env.dir + "/hosts.ini: Is a directory")


def test_no_hosts_and_unknown_host(env):
    has(env.run("status", code=2).err, "no hosts are known", "godwit ca enroll")
    FakeHost(env, "a")
    has(env.run("status", "q", code=2).err, "no host is called 'q'", "knows a")


def test_own_certificate_expired(env):
    env.run("ca", "enroll", "old", "--role", "viewer", "--days", "-1", code=0)
    FakeHost(env, "a")
    has(env.run("status", "--identity", "old", code=3).err, "your certificate", "expired on",
        "godwit ca enroll old --role viewer --force")


def test_ca_expired(env):
    env.dir = os.path.join(env.folder, "old")
    env.run("ca", "init", "--days", "-1", code=0)
    env.hosts["a"] = "127.0.0.1:1"
    p = env.run("status", code=3)
    has(p.err, "CA certificate " + env.dir + "/ca.crt has expired", "godwit ca init")
    lacks(p.err, "ca enroll")  # what it makes is worth nothing
    has(env.run("ca", "enroll", "a", code=1).err, "the CA in " + env.dir + " has expired")
    equal(os.path.exists(env.dir + "/esp"), False)


def test_own_certificate_of_other_ca(env):
    other = Env(env.binary, env.folder)
    other.dir = os.path.join(env.folder, "other")
    other.run("ca", "init", code=0)
    os.replace(other.dir + "/ca.crt", env.dir + "/ca.crt")
    env.hosts["a"] = "127.0.0.1:1"
    has(env.run("status", code=3).err, "was not made by the CA")


def test_identity_missing_or_damaged(env):
    env.hosts["a"] = "127.0.0.1:1"
    has(env.run("status", "--identity", "eve", code=3).err, "identity 'eve'", "--identity")
    has(env.run("status", "--identity", "../x", code=2).err, "cannot be the name")
    with open(env.dir + "/identities/admin.key", "w") as f:
        f.write("junk")
    has(env.run("status", code=3).err, "damaged")
    env.dir = env.folder + "/nowhere"
    os.mkdir(env.dir)
    has(env.run("status", code=3).err, "CA certificate", "godwit ca init")


def test_only_identity_is_the_default(env):
    out = env.folder + "/bob"
    env.run("ca", "enroll", "bob", "--role", "viewer", "--out", out, code=0)
    h = FakeHost(env, "a")
    env.dir = out
    env.run("status", code=0)
    equal((h.seen["commonName"], h.seen["organizationalUnitName"]), ("bob", "viewer"))
