#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that docs/ERRORS.md has every error text of the sources, and no other.

A text is a string literal in a call that reports something (CALLS), at least 14 letters long. In the document texts
stand in backticks, with the ellipsis for each conversion (%s, %u, ...). Exit code 0: good; 1: lines "FAIL ...".
"""
import glob
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CALLS = re.compile(
    r"\b(error_set|log_err|log_warn|log_guest|vm_kill|fail|conn_fail|complain|fail_set|malformed|miss|remedy|invalid"
    r"|session_send_text|session_peer_text|target_abort|send_error|end|console_note|argp_error|ca_fail|qmp_malformed"
    r"|progress_note|explain|WRONG|NEED)\s*\(|\breturn\s+(?=[^;]*\")")
SOURCES = ("boot/*.c", "hv/*.c", "hv/*/*.c", "drivers/*/*.c", "net/*.c", "net/port/*.c", "mig/*.c", "tools/godwit/*.c")
NOT_SHIPPED = re.compile(r"_test\.c$|_fake\.c$|/fake/")
STRING = r'"(?:[^"\\]|\\.)*"'
CONVERSION = re.compile(r"%[-+ #0]*[\d*]*(?:\.[\d*]+)?(?:hh|h|ll|l|z)?[a-zA-Z]")
# Register dumps and lines that say that something is well: nothing to look up.
QUIET = re.compile(r"^(rip … rsp|rip … cs|rax …|rsi …|cr0 …|exit … \(…\) qualification|[Hh]ost …, … guest|Godwit hyper|Leaving"
                   r"|Moving|; 'godwit migrate-status'|…: dropped a frame|guest '…' on|…: internal-error)")


def normal(text):
    text = CONVERSION.sub("…", text).replace("%%", "%")
    return re.sub(r"(… ?)*…", "…", text)


def unquote(literal):
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal)).replace('\\"', '"').replace("\\\\", "\\").replace("\\n", "")


def argument_end(source, start):
    """The end of the call whose arguments begin at start, or of the statement for a return."""
    depth, i = 1, start
    while i < len(source):
        if source[i] == '"':
            i = re.compile(STRING).match(source, i).end()
            continue
        depth += {"(": 1, ")": -1}.get(source[i], 0)
        if depth == 0 or (depth == 1 and source[i] == ";"):
            return i
        i += 1
    return i


def texts(path):
    """(line, text) of every error text; and all texts of the file's literals."""
    with open(path, encoding="utf-8") as f:
        source = re.sub(r"/\*.*?\*/|'\"'", lambda m: re.sub(r"[^\n]", " ", m.group()), f.read(), flags=re.S)
    macros = dict(re.findall(r"#define\s+([A-Z_]+)\s+((?:%s\s*(?:\\\n\s*)?)+)" % STRING, source))
    name = "|".join(macros) or "(?!)"
    group = re.compile(r"(?:%s|\b(?:%s)\b)(?:[\s]*(?:%s|\b(?:%s)\b))*" % (STRING, name, STRING, name))

    def expand(literal):
        literal = re.sub(r"\b(%s)\b" % name, lambda m: macros[m.group()].replace("\\\n", ""), literal)
        return normal(unquote(literal))

    found = []
    for call in CALLS.finditer(source):
        line_start = source.rfind("\n", 0, call.start()) + 1
        if source[line_start:].lstrip().startswith("#define"):
            continue
        if call.group().startswith("return") and not path.startswith("hv/config"):
            continue
        body = source[call.end():argument_end(source, call.end())]
        for literal in group.findall(body):
            text = expand(literal)
            if len(re.sub(r"[^A-Za-z]", "", text)) >= 14 and " " in text.strip() and not QUIET.match(text):
                found.append((source.count("\n", 0, call.start()) + 1, text))
    return found, [expand(g) for g in group.findall(source)] + [normal(unquote(m)) for m in macros.values()]


def main():
    os.chdir(TOP)
    with open("docs/ERRORS.md", encoding="utf-8") as f:
        documented = [normal(t) for t in re.findall(r"`([^`]+)`", f.read())]
    everything, known, failed = "\n".join(documented), [], 0
    files = [p for pattern in SOURCES for p in sorted(glob.glob(pattern)) if not NOT_SHIPPED.search(p)]
    for path in files:
        errors, literals = texts(path)
        known += literals
        for line, text in dict((t, (n, t)) for n, t in errors).values():
            if text.strip("… ") not in everything:
                print(f"FAIL {path}:{line}: not in docs/ERRORS.md: {text}")
                failed += 1
    code = "\n".join(known)
    for text in documented:
        if len(re.sub(r"[^A-Za-z]", "", text)) < 14 or " " not in text.strip() or text.startswith("godwit "):
            continue
        if text.strip("… ") not in code:
            print(f"FAIL docs/ERRORS.md: no source says: {text}")
            failed += 1
    print(f"error texts: {len(documented)} documented, {len(files)} files looked at")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
