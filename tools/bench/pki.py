# SPDX-License-Identifier: MIT
"""Certificates for tests, made with the openssl command: a second opinion beside Godwit's own key tool.

    pki = Pki("build/runs/x/pki")           # makes ca.crt, ca.key there
    crt, key = pki.issue("a", "host")       # EC P-256, PEM; role: admin operator viewer host
"""
import os
import subprocess
import time

# `openssl x509` cannot date a certificate back, `openssl ca` can.
CA_CONFIG = """[ca]
default_ca=this
[this]
database=index.txt
serial=serial
new_certs_dir=.
unique_subject=no
default_md=sha256
policy=any
[any]
organizationName=supplied
organizationalUnitName=supplied
commonName=supplied
"""


class Pki:
    """One cluster CA in a folder; every certificate it issued lies there as NAME-ROLE.crt/.key."""

    def __init__(self, folder, cluster="lab"):
        self.folder, self.cluster = folder, cluster
        self.ca_crt, self.ca_key = os.path.join(folder, "ca.crt"), os.path.join(folder, "ca.key")
        os.makedirs(folder, exist_ok=True)
        if not os.path.exists(self.ca_crt):
            self._openssl(
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "3650",
                "-subj",
                f"/O={cluster}/CN={cluster} CA",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-addext",
                "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout",
                self.ca_key,
                "-out",
                self.ca_crt,
            )

    def issue(self, name, role, days=365, eku=None, san=None):
        """(certificate path, key path) for name with role; a negative days makes one that has expired. san: subjectAltName.

        It is valid since two days ago: the clock of an emulated host lags behind.
        """
        base = os.path.abspath(os.path.join(self.folder, f"{name}-{role}"))
        crt, key, csr, ext = base + ".crt", base + ".key", base + ".csr", base + ".ext"
        eku = eku or ("serverAuth,clientAuth" if role == "host" else "clientAuth")
        with open(ext, "w", encoding="ascii") as f:
            f.write(
                f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={eku}\n"
            )
            if role == "host" or san:
                f.write(f"subjectAltName={san or 'DNS:' + name}\n")
        for file, text in ("ca.cnf", CA_CONFIG), ("index.txt", ""), ("serial", "1000\n"):
            if not os.path.exists(os.path.join(self.folder, file)):
                with open(os.path.join(self.folder, file), "w", encoding="ascii") as f:
                    f.write(text)
        start, end = (
            time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + d * 86400)) for d in (-2, days)
        )
        subject = f"/O={self.cluster}/OU={role}/CN={name}"
        curve = ["-pkeyopt", "ec_paramgen_curve:P-256"]
        self._openssl(
            "req", "-new", "-newkey", "ec", *curve, "-nodes", "-subj", subject, "-keyout", key, "-out", csr
        )
        self._openssl(
            *("ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"),
            *("-in", csr, "-startdate", start, "-enddate", end, "-extfile", ext, "-out", crt),
            cwd=self.folder,
        )
        os.unlink(csr)
        os.unlink(ext)
        return crt, key

    @staticmethod
    def _openssl(*args, cwd=None):
        result = subprocess.run(
            ["openssl", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, cwd=cwd
        )
        if result.returncode:
            raise RuntimeError(
                "openssl " + args[0] + ": " + result.stdout.decode(errors="replace").strip()
            )
