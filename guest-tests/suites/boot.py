# SPDX-License-Identifier: MIT
"""Hosts that cannot do all they should: whatever is wrong, the host comes up, says what, and what to do about it."""
import os
import socket
import ssl

import bench
import lib
import pki
from lib import conf, guest, until
from runner import test

HELLO = {"hello.elf": os.path.join(lib.GUESTS, "hello.elf")}
NO_VTX = {"emulator": "tcg"}  # boots fastest; for everything that needs no guest


def has(text, *parts):
    """Each part is in the text (line breaks count as spaces)."""
    flat = " ".join(text.split())
    for part in parts:
        assert part in flat, f"{part!r} is missing in:\n{text}"


def wait_ready(host):
    host.wait_for(r"hv: ready", 60)


@test(timeout=90)
def no_vtx(run):
    """A CPU without VT-x: console, DHCP and control port work, and all say why no guest runs."""
    text = "[host]\nname=a\n\n[network]\nmode=dhcp\n\n" + guest("web", "hello.elf")
    host = run.host("a", run.esp("a", text, HELLO), **NO_VTX)
    host.wait_for(r"VT-x: NOT usable", 60)
    wait_ready(host)
    has(host.serial(), "hv: error: guests cannot run here: missing VT-x (VMX)")
    host.wait_for(r"net: address 10\.0\.2\.15/24 gateway 10\.0\.2\.2 \(DHCP\)", 30, rewind=True)
    op = lib.Operator(run, host)
    until(lambda: op.godwit("status", check=False).returncode == 0, 20, "status by DHCP's address")
    info, guests = op.status()
    assert not info["vmx"]["usable"] and "VT-x (VMX)" in info["vmx"]["missing"], info
    has(info["vmx"]["remedy"], "Intel", "VT-x", "Use another machine")
    assert guests["web"]["status"] == "prelaunch", guests
    has(op.godwit("status").stdout, "MISSING", "host 'a' cannot run guests; missing: VT-x (VMX)", "Remedy: Godwit needs an Intel CPU")
    got = op.godwit("start", "web", check=False)
    assert got.returncode == 1, got
    has(got.stderr, "guests cannot run on host 'a'", "Use another machine")
    op.godwit("status")  # and it is still there


@test(timeout=90)
def no_ept_dirty_flags(run):
    """VT-x is there but too old: the missing part is named, not just 'no VT-x'."""
    if bench.pick_emulator()[0] != "bochs":
        return  # only Bochs can be an old CPU
    host = run.host("a", run.esp("a", conf(guest("web", "hello.elf")), HELLO), cpu="corei7_ivy_bridge_3770k", sync="none")
    host.wait_for(r"hv: error: guests cannot run here: missing EPT: accessed and dirty flags")
    wait_ready(host)
    op = lib.Operator(run, host)
    info, guests = op.status()
    assert info["vmx"]["missing"] == ["EPT: accessed and dirty flags"], info
    has(info["vmx"]["remedy"], "Use one with Intel's Haswell core (2013) or a later one")
    assert guests["web"]["status"] == "prelaunch", guests
    has(op.godwit("start", "web", check=False).stderr, "guests cannot run on host 'a'", "Haswell")


@test(timeout=90)
def config_wrong(run):
    """Line and key of each mistake; what is right is used."""
    text = conf(more="[migration]\nmax-rounds=many\n\n[debug]\nspeed=11\n\n") + (
        guest("bad", "hello.elf", memory="17") + guest("nokernel", None) + guest("web", "hello.elf")
    )
    host = run.host("a", run.esp("a", text, HELLO), **NO_VTX)
    wait_ready(host)
    op = lib.Operator(run, host)
    info, guests = op.status()
    errors, lines = info["config-errors"], text.splitlines()
    wanted = [
        ("max-rounds=many", "[migration] max-rounds=many is not a number from 1 to 1000"),
        ("speed=11", "[debug] has no key speed. It knows self-migrate-exits, quit-when-idle"),
        ("memory=17", "[guest bad] memory=17 is not a size. Write a number with K, M or G"),
        ("[guest nokernel]", "[guest nokernel] has no kernel=. Name the file to boot"),
    ]
    assert len(errors) == len(wanted), errors
    for error, (line, words) in zip(errors, wanted):
        has(error, f"godwit.conf line {lines.index(line) + 1}: {words}")
        has(host.serial(), error)
        has(op.godwit("status").stdout, f"host 'a', configuration: {error}")
    assert list(guests) == ["web"], guests


@test(timeout=60)
def config_missing(run):
    """Without godwit.conf the host is known by its certificate, and asks for the file."""
    esp = run.esp("a", "")
    os.unlink(os.path.join(esp, "godwit", "godwit.conf"))
    host = run.host("a", esp, **NO_VTX)
    wait_ready(host)
    has(host.serial(), "file \\godwit\\godwit.conf is missing", "Put the file on the boot disk")
    op = lib.Operator(run, host)
    until(lambda: op.godwit("status", check=False).returncode == 0, 20, "status by DHCP's address")
    info, guests = op.status()
    has(" ".join(info["config-errors"]), "godwit.conf is missing")
    assert info["name"] == "a" and not guests, (info, guests)


def keys_case(name, words, change):
    """A test of a host with bad keys: the console says which, and the host stays up with its port closed."""

    def body(run):
        esp = run.esp("a", conf())
        change(run, os.path.join(esp, "godwit"))
        host = run.host("a", esp, **NO_VTX)
        line = host.wait_for(r"net: error: control port 4789 stays closed.*", 40).group(0)
        has(line, *words)
        wait_ready(host)
        got = lib.Operator(run, host).godwit("status", "a", check=False)
        assert got.returncode == 3, got
        has(got.stdout, "no answer", "host 'a'")
        assert host.alive()

    body.__name__ = name
    return test(timeout=60)(body)


def write(name, data):
    def change(_, folder):
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)

    return change


def expire(run, folder):
    crt, key = run.pki.issue("a", "host", days=-1)
    for source, name in (crt, "host.crt"), (key, "host.key"):
        with open(source, "rb") as f:
            write(name, f.read())(run, folder)


keys_case(
    "certificate_missing",
    ("\\godwit\\host.crt", "missing", "godwit ca enroll a"),
    lambda run, folder: os.unlink(os.path.join(folder, "host.crt")),
)
keys_case(
    "certificate_garbage",
    ("\\godwit\\host.crt is not a PEM certificate", "godwit ca enroll"),
    write("host.crt", b"-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"),
)
keys_case(
    "key_garbage",
    ("\\godwit\\host.key is not a PEM private key", "godwit ca enroll"),
    write("host.key", os.urandom(2000)),
)
keys_case("certificate_expired", ("\\godwit\\host.crt (for 'a') expired on", "Renew it with 'godwit ca enroll a"), expire)


def refused(run, host, words, ca=None, keys=(None, None), **options):
    """A TLS connection that the host must not accept, and the reason in its log."""
    try:
        lib.Control(host.port, ca or run.pki.ca_crt, *keys, **options)
    except (ssl.SSLError, lib.Closed, ConnectionError) as e:
        print("refused:", e)
    else:
        raise AssertionError(f"was let in, should not: {words}")
    host.wait_for(words, 10)


@test(timeout=90)
def tls_strangers(run):
    """Whoever is not of the cluster stays out, with the reason at both ends; the host goes on."""
    host = run.host("a", run.esp("a", conf()), **NO_VTX)
    wait_ready(host)
    op = lib.Operator(run, host)
    op.godwit("status")
    other = pki.Pki(os.path.join(run.dir, "other-pki"), "other")
    refused(run, host, r"net: .*showed no certificate", ca=run.pki.ca_crt)
    refused(run, host, r"net: .*is not from this host's CA", keys=other.issue("mallory", "admin"))
    refused(run, host, r"net: .*expired on", keys=run.pki.issue("old", "admin", days=-1))
    refused(run, host, r"net: .*role must be admin, operator", keys=run.pki.issue("eve", "king"))
    refused(run, host, r"net: .*only a host may", keys=(op.crt, op.key), alpn="godwit-mig/1")
    refused(run, host, r"net: .*named no protocol|offers no protocol", keys=(op.crt, op.key), alpn=None)
    refused(run, host, r"net: .*offers no protocol", keys=(op.crt, op.key), alpn="http/1.1")
    with socket.create_connection(("127.0.0.1", host.port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            assert b"QMP" not in plain.recv(1000)
        except ConnectionResetError:
            pass
    host.wait_for(r"net: .*does not speak TLS", 10)

    def fails(operator, *words):
        got = operator.godwit("status", check=False)
        assert got.returncode == 3, got
        has(got.stdout + got.stderr, *words)

    stranger = lib.Operator(run, host, name="mallory")
    for source, target in zip(other.issue("mallory", "admin"), ("crt", "key")):
        with open(source, "rb") as f:
            write(f"identities/mallory.{target}", f.read())(run, stranger.dir)
    fails(stranger, "your certificate", "was not made by the CA")
    with open(other.ca_crt, "rb") as f:
        write("ca.crt", f.read())(run, stranger.dir)
    fails(stranger, "the certificate of 'a'", "is not of your cluster's CA")
    renamed = lib.Operator(run, host, name="bob")
    write("hosts.ini", f"[b]\naddress=127.0.0.1:{host.port}\n".encode())(run, renamed.dir)
    fails(renamed, "is 'a', not 'b': correct the address of 'b' in hosts.ini")
    write("hosts.ini", f"[a]\naddress=127.0.0.1:{bench.free_port()}\n".encode())(run, renamed.dir)
    fails(renamed, "host 'a'")
    op.godwit("status")


@test(timeout=90)
def control_protocol(run):
    """The control port with hostile and clumsy clients, by hand; roles."""
    host = run.host("a", run.esp("a", conf(guest("web", "hello.elf")), HELLO), **NO_VTX)
    wait_ready(host)
    op = lib.Operator(run, host)
    c = op.control()
    version = c.greeting["QMP"]["version"]
    assert c.greeting["QMP"]["host"] == "a" and version["protocol"] == 1, c.greeting
    assert c.call("query-version") == version
    assert c.call("qmp_capabilities") == {}
    assert {"query-host", "migrate"} <= {x["name"] for x in c.call("query-commands")}

    def error(kind, *words):
        got = c.answer()
        assert got.get("error", {}).get("class") == kind, got
        has(got["error"]["desc"], *words)
        return got

    for garbage in b"garbage\n", b"[1]\n", b'{"execute":"query-version"} x\n', b"\0\xff\xfe{}\n", b'{"execute":"query-version"\n':
        c.send(garbage)
        error("GenericError", "not one JSON object in one line")
    c.send(b'{"execute":5,"id":[1,{"x":null}]}\n')
    assert error("GenericError", 'needs "execute"')["id"] == [1, {"x": None}]
    c.send({"execute": "make-coffee", "id": "x"})
    assert error("CommandNotFound", "make-coffee", "query-commands lists them")["id"] == "x"
    c.send({"execute": "query-status"})
    error("GenericError", '"guest" is missing')
    c.send({"execute": "query-status", "arguments": {"guest": 7}})
    error("GenericError", '"guest" must be text')
    c.send({"execute": "query-status", "arguments": {"guest": "nobody"}})
    error("DeviceNotFound", "no guest is called 'nobody' on host 'a'; it has: web")
    c.send(b'{"execute":"query-version","arguments":{"x":[' + b"[],[" * 2000 + b"\n")
    error("GenericError", "more than 1024 values")
    c.send(b"[" * 900 + b"\n")
    error("GenericError", "not one JSON object")
    c.send({"execute": "ringbuf-write", "arguments": {"device": "web", "data": "!", "format": "base64"}})
    error("GenericError", "base64")
    c.send(b'{"execute":"query-version"}\n' * 50)  # a pipeline is answered in full
    for _ in range(50):
        assert c.answer() == {"return": version}
    c.send(b" \r\n\n" + b'{"execute":"query-version","id":1}\r\n')
    assert c.answer() == {"return": version, "id": 1}
    c.send(b'{"execute":"' + b"a" * 100000)
    error("GenericError", "longer than 64 KiB")
    try:
        c.read()
        raise AssertionError("an endless request was not cut off")
    except lib.Closed:
        pass

    for name, role in ("carol", "viewer"), ("b", "host"):
        viewer = lib.Operator(run, host, name=name, role=role)
        v = viewer.control()
        for command in "query-host", "query-guests":
            v.call(command)
        assert v.call("query-migrate", guest="web") == {"status": "none"}
        for command in "guest-start", "guest-stop", "system_reset", "stop", "cont", "console-attach", "migrate", "migrate_cancel":
            try:
                v.call(command, guest="web", device="web", host="b", uri="tcp:10.0.2.2:1", data="")
                raise AssertionError(f"{role} may {command}")
            except lib.Refused as e:
                assert e.kind == "AccessDenied", e
                has(e.desc, f"'{name}' has the role {role}", "needs operator or admin", "godwit ca enroll")
    got = lib.Operator(run, host, name="carol", role="viewer").godwit("start", "web", check=False)
    assert got.returncode == 1 and "role viewer" in got.stderr, got
    lib.Operator(run, host, name="dave", role="operator").control().call("console-attach", guest="web")
    op.godwit("status")


@test(timeout=120)
def guest_images(run):
    """Images that cannot be booted: each guest says which file and what to do; host and good guests go on."""
    with open(os.path.join(lib.LINUX, "vmlinuz"), "rb") as f:
        vmlinuz = f.read()
    with open(os.path.join(lib.GUESTS, "hello.elf"), "rb") as f:
        hello = f.read()
    files = {
        "dirty.elf": os.path.join(lib.GUESTS, "dirty.elf"),
        "half.bz": vmlinuz[: len(vmlinuz) // 2],
        "stub.bz": vmlinuz[:600],
        "half.elf": hello[: len(hello) // 2],
        "letter.txt": b"Dear hypervisor,\n" * 1000,
        "empty.bin": b"",
        **HELLO,
    }
    in_file = {
        "gone": ("kernel= of [guest gone]: file \\godwit\\vmlinuz-9.9 is missing. Copy it to the folder godwit",),
        "halfbz": ("half.bz", "cut short", "again"),
        "stub": ("stub.bz", "again"),
        "halfelf": ("half.elf", "cut short", "again"),
        "letter": ("letter.txt is neither a Linux bzImage nor a Multiboot 1 ELF kernel", "kernel= of [guest letter]"),
        "empty": ("empty.bin", "empty", "Copy the right one"),
        "huge": ("huge", "memory", "memory="),
        "noinitrd": ("initrd= of [guest noinitrd]: file \\godwit\\initrd.gone is missing. Copy it",),
        "nomodule": ("module= of [guest nomodule]: file \\godwit\\module.gone is missing. Copy it",),
        "tight": ("half.bz", "cut short"),
    }
    text = conf(
        guest("good", "dirty.elf", cmdline="mb=4 rate=8"),
        guest("gone", "vmlinuz-9.9"),
        guest("halfbz", "half.bz", memory="64M"),
        guest("stub", "stub.bz"),
        guest("halfelf", "half.elf"),
        guest("letter", "letter.txt"),
        guest("empty", "empty.bin"),
        guest("huge", "hello.elf", memory="8G"),
        guest("noinitrd", "half.bz", initrd="initrd.gone"),
        guest("nomodule", "hello.elf", module="module.gone x=1"),
        guest("tight", "half.bz", memory="4M"),
        guest("last", "hello.elf"),
    )
    host = run.host("a", run.esp("a", text, files), sync="none")
    wait_ready(host)
    op = lib.Operator(run, host)
    info, guests = op.status()
    free = info["memory-free"]
    notes = op.godwit("status").stdout
    for name, words in in_file.items():
        assert guests[name]["status"] == "shutdown", guests[name]
        has(guests[name]["exit-reason"], *words)
        has(host.serial(), f"guest: error: {name}: ")
        has(notes, f"guest '{name}' on 'a' is shutdown: ")
        got = op.godwit("start", name, check=False)
        assert got.returncode == 1, got
        has(got.stderr, words[0])
    c = op.control()
    c.wait_status("last", "shutdown")
    seq = int(c.wait_console("good", r"DIRTY seq=(\d+) ").group(1))
    c.wait_console("good", rf"seq={seq + 3} ")
    info, guests = op.status()
    assert guests["good"]["status"] == "running" and guests["last"]["exit-reason"] == "debug-exit 0", guests
    assert info["memory-free"] >= free, (free, info)
