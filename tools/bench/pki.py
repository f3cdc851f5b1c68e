# SPDX-License-Identifier: MIT
"""Certificates for tests, made with the openssl command: a second opinion beside Godwit's own key tool.

    pki = Pki("build/runs/x/pki")           # makes ca.crt, ca.key there
    crt, key = pki.issue("a", "host")       # EC P-256, PEM; role: admin operator viewer host
"""
import os
import subprocess


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

    def issue(self, name, role, days=365, eku=None):
        """(certificate path, key path) for name with role; a negative days makes one that has expired."""
        base = os.path.join(self.folder, f"{name}-{role}")
        crt, key, csr, ext = base + ".crt", base + ".key", base + ".csr", base + ".ext"
        eku = eku or ("serverAuth,clientAuth" if role == "host" else "clientAuth")
        with open(ext, "w", encoding="ascii") as f:
            f.write(
                f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={eku}\n"
            )
            if role == "host":
                f.write(f"subjectAltName=DNS:{name}\n")
        self._openssl(
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            f"/O={self.cluster}/OU={role}/CN={name}",
            "-keyout",
            key,
            "-out",
            csr,
        )
        self._openssl(
            "x509",
            "-req",
            "-in",
            csr,
            "-CA",
            self.ca_crt,
            "-CAkey",
            self.ca_key,
            "-CAcreateserial",
            "-days",
            str(days),
            "-extfile",
            ext,
            "-out",
            crt,
        )
        os.unlink(csr)
        os.unlink(ext)
        return crt, key

    @staticmethod
    def _openssl(*args):
        result = subprocess.run(
            ["openssl", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if result.returncode:
            raise RuntimeError(
                "openssl " + args[0] + ": " + result.stdout.decode(errors="replace").strip()
            )
