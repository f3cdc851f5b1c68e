#!/bin/sh
# SPDX-License-Identifier: MIT
# Certificates for the tests of net/: good ones and every kind of bad one. Usage: net/test_pki.sh DIR
set -eu
mkdir -p "$1"
cd "$1"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }
ca() { # FILE COMMON-NAME
	key "$1"
	openssl req -x509 -new -key "$1.key" -sha256 -days 7300 -subj "/O=lab/CN=$2" -out "$1.crt" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
}
leaf() { # FILE SUBJECT CA DAYS EXTENDED-KEY-USAGE [SAN]
	key "$1"
	{
		echo "basicConstraints=critical,CA:FALSE"
		echo "keyUsage=critical,digitalSignature"
		echo "extendedKeyUsage=$5"
		[ -z "${6:-}" ] || echo "subjectAltName=DNS:$6"
	} > "$1.ext"
	openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
	openssl x509 -req -in "$1.csr" -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -sha256 -days "$4" \
		-extfile "$1.ext" -out "$1.crt" 2>/dev/null
}
ca ca lab
ca other-ca elsewhere
leaf a "/O=lab/OU=host/CN=a" ca 3650 serverAuth,clientAuth a
leaf b "/O=lab/OU=host/CN=b" ca 3650 serverAuth,clientAuth b
leaf admin "/O=lab/OU=admin/CN=ann" ca 3650 clientAuth
leaf operator "/O=lab/OU=operator/CN=otto" ca 3650 clientAuth
leaf viewer "/O=lab/OU=viewer/CN=vera" ca 3650 clientAuth
leaf short "/O=lab/OU=admin/CN=short" ca 1 clientAuth
leaf short-host "/O=lab/OU=host/CN=a" ca 1 serverAuth,clientAuth a
leaf stranger "/O=lab/OU=admin/CN=mallory" other-ca 3650 clientAuth
leaf stranger-host "/O=lab/OU=host/CN=a" other-ca 3650 serverAuth,clientAuth a
leaf king "/O=lab/OU=king/CN=arthur" ca 3650 clientAuth
leaf no-role "/O=lab/CN=nobody" ca 3650 clientAuth
leaf two-roles "/O=lab/OU=viewer/OU=admin/CN=janus" ca 3650 clientAuth
leaf server-only "/O=lab/OU=admin/CN=srv" ca 3650 serverAuth
leaf admin-server "/O=lab/OU=admin/CN=a" ca 3650 serverAuth,clientAuth a
openssl req -x509 -new -newkey rsa:2048 -nodes -keyout rsa.key -days 10 -subj "/O=lab/OU=host/CN=a" -out rsa.crt 2>/dev/null
touch done
