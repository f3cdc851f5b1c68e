# SPDX-License-Identifier: MIT
"""godwit ca: what is made, what is refused, and that other software accepts it."""
import json
import os
import ssl
import stat
import subprocess

from env import Failed, equal, has, lacks

NEEDS_CA = False


def read(*path):
    with open(os.path.join(*path)) as f:
        return f.read()


def decode(path):
    return ssl._ssl._test_decode_cert(path)  # the only certificate parser in the standard library


def subject(path):
    return {k: v for part in decode(path)["subject"] for k, v in part}


def test_init_makes_ca_and_admin(env):
    p = env.run("ca", "init", "--cluster", "lab", code=0)
    has(p.out, "cluster 'lab'", "godwit ca enroll")
    equal(subject(env.dir + "/ca.crt"),
          {"organizationName": "lab", "organizationalUnitName": "ca", "commonName": "lab CA"})
    equal(subject(env.dir + "/identities/admin.crt"),
          {"organizationName": "lab", "organizationalUnitName": "admin", "commonName": "admin"})
    for key in ("ca.key", "identities/admin.key"):
        equal(stat.S_IMODE(os.stat(os.path.join(env.dir, key)).st_mode), 0o600)


def test_init_does_not_overwrite(env):
    env.run("ca", "init", code=0)
    before = read(env.dir, "ca.key")
    has(env.run("ca", "init", code=1).err, "holds a CA already", "--dir")
    equal(read(env.dir, "ca.key"), before)
    os.unlink(env.dir + "/ca.crt")
    env.run("ca", "init", code=1)
    equal(read(env.dir, "ca.key"), before)


def test_hosts_that_cannot_be_read_stay(env):
    env.run("ca", "init", "--cluster", "lab", code=0)
    env.run("ca", "enroll", "a", "--address", "10.0.0.5", code=0)
    with open(env.dir + "/hosts.ini", "a") as f:
        f.write("#" * (1 << 20))
    before = read(env.dir, "hosts.ini")
    has(env.run("ca", "enroll", "b", "--address", "10.0.0.6", code=1).err, "hosts.ini", "longer than 1 MiB")
    equal(read(env.dir, "hosts.ini"), before)


def test_addresses_that_are_none(env):
    env.run("ca", "init", code=0)
    for bad, want in (("1.2.3.4:4294967297", "1 to 65535"), ("1.2.3.4:" + "9" * 30, "1 to 65535"), ("1.2.3.4:0", "1 to 65535"),
                      ("1.2.3.4:-1", "valid port"), ("1.2.3.4:1x", "valid port"), ("10.0.0.5\n[b]", "not an address"),
                      ("x" * 124 + ":4789", "not an address"), ("a;b", "not an address"), ("::1", "not an address"),
                      ("", "not an address")):
        for option in ("--address", "--peer-address"):
            has(env.run("ca", "enroll", "a", option, bad, code=2).err, want)
    equal(os.path.exists(env.dir + "/hosts.ini"), False)


def test_hosts_that_are_indented_stay(env):
    env.run("ca", "init", code=0)
    with open(env.dir + "/hosts.ini", "w") as f:
        f.write("[a]\n\n  [b]\n  address=10.0.0.6\n")
    env.run("ca", "enroll", "a", "--address", "10.0.0.5", code=0)
    equal(read(env.dir, "hosts.ini"), "[a]\naddress=10.0.0.5\n\n  [b]\n  address=10.0.0.6\n")
    env.run("ca", "enroll", "b", "--address", "10.0.0.7", code=0)
    has(env.run("status", "b", "--timeout", "0.1", keep_hosts=True, code=3).out, "10.0.0.7")


def test_enroll_host(env):
    env.run("ca", "init", "--cluster", "lab", code=0)
    p = env.run("ca", "enroll", "a", "--address", "10.0.0.5:4000", "--days", "30", code=0)
    folder = env.dir + "/esp/a/godwit"
    has(p.out, env.dir + "/esp/a/godwit")
    equal(sorted(os.listdir(folder)), ["ca.crt", "godwit.conf", "host.crt", "host.key"])
    equal(subject(folder + "/host.crt"),
          {"organizationName": "lab", "organizationalUnitName": "host", "commonName": "a"})
    equal(decode(folder + "/host.crt")["subjectAltName"], (("DNS", "a"),))
    equal(read(folder, "ca.crt"), read(env.dir, "ca.crt"))
    has(read(folder, "godwit.conf"), "[host]", "name=a", "mode=dhcp", "port=4000", "#[guest")
    has(read(env.dir, "hosts.ini"), "[a] address=10.0.0.5:4000")
    lacks(read(env.dir, "hosts.ini"), "peer-address=1")


def test_enroll_again_needs_force_and_keeps_config(env):
    env.run("ca", "init", code=0)
    env.run("ca", "enroll", "a", "--address", "10.0.0.5", "--peer-address", "10.9.9.9:1", code=0)
    env.run("ca", "enroll", "b", "--address", "10.0.0.6", code=0)
    folder = env.dir + "/esp/a/godwit"
    with open(folder + "/godwit.conf", "a") as f:
        f.write("# mine\n")
    key = read(folder, "host.key")
    has(env.run("ca", "enroll", "a", code=1).err, "enrolled already", "--force")
    equal(read(folder, "host.key"), key)
    env.run("ca", "enroll", "a", "--force", "--address", "10.0.0.7:99", code=0)
    if read(folder, "host.key") == key:
        raise Failed("--force kept the old key")
    has(read(folder, "godwit.conf"), "# mine")
    has(read(env.dir, "hosts.ini"), "[a] address=10.0.0.7:99 peer-address=10.9.9.9:1",
        "[b] address=10.0.0.6", "# Hosts that")


def test_enroll_person_to_hand_over(env):
    env.run("ca", "init", code=0)
    env.run("ca", "enroll", "a", "--address", "10.0.0.5", code=0)
    out = env.folder + "/bob"
    p = env.run("ca", "enroll", "bob", "--role", "operator", "--out", out, code=0)
    has(p.out, "--identity bob")
    equal(subject(out + "/identities/bob.crt")["organizationalUnitName"], "operator")
    equal(sorted(os.listdir(out)), ["ca.crt", "hosts.ini", "identities"])
    if "subjectAltName" in decode(out + "/identities/bob.crt"):
        raise Failed("a person's certificate must not be usable as a host's")


def test_person_without_the_hosts_is_a_failure(env):
    env.run("ca", "init", code=0)
    env.run("ca", "enroll", "a", "--address", "10.0.0.5", code=0)
    os.makedirs(env.folder + "/bob/hosts.ini")
    has(env.run("ca", "enroll", "bob", "--role", "viewer", "--out", env.folder + "/bob", code=1).err, "cannot write", "bob/hosts.ini")


def test_options_of_the_other_verb(env):
    for options in (("--out", env.folder + "/x"), ("--role", "admin"), ("--address", "1.2.3.4"), ("--peer-address", "1.2.3.4"),
                    ("--force",)):
        has(env.run("ca", "init", *options, code=2).err, "takes --cluster and --days only")
    equal(os.path.exists(env.dir), False)
    env.run("ca", "init", code=0)
    has(env.run("ca", "enroll", "a", "--cluster", "lab", code=2).err, "--cluster is for 'godwit ca init' only")


def test_refuses_bad_arguments(env):
    env.run("ca", "init", code=0)
    for bad in ("a/b", "../x", "a,OU=admin", "", "x" * 32, "a b", "-a"):
        has(env.run("ca", "enroll", "--", bad, code=2).err, "cannot be a name")
    has(env.run("ca", "enroll", "a", "--role", "king", code=2).err, "no role 'king'", "viewer")
    has(env.run("ca", "enroll", "a", "--address", "nonsense:port", code=2).err, "valid port")
    has(env.run("ca", "enroll", "a", "--address", "1.2.3.4:70000", code=2).err, "1 to 65535")
    has(env.run("ca", "enroll", "bob", "--role", "admin", "--address", "1.2.3.4", code=2).err,
        "only a host")
    has(env.run("ca", "init", "--cluster", "a/b", code=2).err, "cluster name")
    has(env.run("ca", code=2).err, "godwit ca init")
    has(env.run("ca", "enroll", code=2).err, "which host")
    equal(sorted(os.listdir(env.dir + "/identities")), ["admin.crt", "admin.key"])
    equal(os.path.exists(env.dir + "/hosts.ini"), False)


def test_enroll_without_ca(env):
    has(env.run("ca", "enroll", "a", code=1).err, "ca.key", "godwit ca init")


def test_damaged_ca(env):
    env.run("ca", "init", code=0)
    with open(env.dir + "/ca.key", "w") as f:
        f.write("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n")
    has(env.run("ca", "enroll", "a", code=1).err, "damaged")


def test_json(env):
    equal(json.loads(env.run("ca", "init", "--json", code=0).out)["cluster"], "godwit")
    got = json.loads(env.run("ca", "enroll", "a", "--json", code=0).out)
    equal((got["name"], got["role"], got["dir"]), ("a", "host", env.dir + "/esp/a"))
    got = json.loads(env.run("ca", "enroll", "a", "--json", code=1).out)
    equal(got["exit-code"], 1)


def test_usage_and_help(env):
    has(env.run("ca", "--help", code=0).out, "Usage: godwit ca", "--timeout", "--role")
    has(subprocess.run([env.binary, "--help"], capture_output=True, text=True, check=True).stdout,
        "migrate-cancel", "Exit codes", "the outcome is not known")
    has(env.run("frobnicate", code=2).err, "no command 'frobnicate'")
