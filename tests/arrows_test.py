#!/usr/bin/env python3
"""Fails when an include breaks one of the arrows that docs/ARCHITECTURE.md draws."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A folder may include itself and these.
FOLDERS = {
    "cli": {"client", "actors", "cluster", "storage", "engine", "schema"},
    "actors": {"cluster", "storage", "engine", "schema"},
    "client": {"schema"},
    "storage": {"engine", "schema"},  # of the engine: base, memory and the tiers' interfaces in kv and loop
    "cluster": set(),
    "engine": set(),
    "schema": set(),
}

# Who may know a library, by the start of its headers' names.
LIBRARIES = {
    "caf/": {"actors"},
    "boost/": {"actors"},
    "prometheus/": {"actors"},
    "kj/": {"actors", "client"},
    "capnp/": {"actors", "client", "storage"},
    "rocksdb/": {"storage"},
    "curl/": {"storage"},
    "hwy/": {"engine"},
    "pcre2.h": {"engine"},
    "utf8proc.h": {"engine"},
    "spdlog/": {"actors", "cli"},
    "yaml-cpp/": {"cli"},
    "CLI/": {"cli"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def violations(folder, name, text):
    for header in INCLUDE.findall(text):
        top = header.split("/")[0]
        if top in FOLDERS and "/" in header and top != folder and top not in FOLDERS[folder]:
            yield f"{name}: {folder} may not include {header}"
        for library, allowed in LIBRARIES.items():
            if header.startswith(library) and folder not in allowed:
                yield f"{name}: only {', '.join(sorted(allowed))} may include {header}"


def self_test():
    bad = '#include "actors/server.h"\n#include <caf/all.hpp>\n'
    assert len(list(violations("engine", "x", bad))) == 2
    assert not list(violations("actors", "x", bad + '#include "engine/base/types.h"\n'))
    assert list(violations("cluster", "x", '#  include "engine/base/types.h"\n'))


def main():
    self_test()
    found, files = [], 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".h", ".cc", ".cu", ".cuh"} and "example" not in path.parts:
                files += 1
                found += violations(folder, path.relative_to(ROOT), path.read_text())
    print("\n".join(found) or f"{files} files keep to the arrows")
    return 1 if found or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
