#!/usr/bin/env python3
"""Holds the sources to the rooms of docs/architecture.md: an #include "room/..." must be allowed by the DEPENDS of the
room it stands in, and DEPENDS may only name rooms that src/CMakeLists.txt lists earlier. Tests (*_test.cc, testing/,
testing.h) may include every room up to their own; those of the oracle, reference/, every room of the library. cli/ is a
program and may include every room but reference/."""
import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parent.parent / "src"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.MULTILINE)


def rooms_in_order():
    return re.findall(r"^add_subdirectory\((\w+)\)", (SRC / "CMakeLists.txt").read_text(), re.MULTILINE)


def depends(room):
    """What qnext_room(room DEPENDS ...) names; None for a folder that is no room."""
    text = (SRC / room / "CMakeLists.txt").read_text()
    call = re.search(rf"qnext_room\(\s*{room}\b([^)]*)\)", text)
    if not call:
        return None
    named = re.search(r"DEPENDS\s+(.*?)(?=\b(?:LIBRARIES|SOURCES|TESTS)\b|$)", call.group(1), re.DOTALL)
    return set(named.group(1).split()) if named else set()


def is_test(path):
    return path.name.endswith(("_test.cc", "testing.h")) or "testing" in path.parts


def main():
    order = rooms_in_order()
    allowed = {room: depends(room) for room in order}
    errors = []
    for room, named in allowed.items():
        for other in sorted(named or ()):
            if other not in order or order.index(other) >= order.index(room):
                errors.append(f"src/{room}/CMakeLists.txt: DEPENDS {other}, which is not below {room}")
    files = 0
    for path in sorted(SRC.rglob("*")):
        if path.suffix not in (".cc", ".h", ".inc") or len(path.relative_to(SRC).parts) < 2:
            continue
        files += 1
        room = path.relative_to(SRC).parts[0]
        if room not in order:
            errors.append(f"src/{room}: not listed in src/CMakeLists.txt")
            continue
        for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if target == room or target not in order:
                continue  # its own room, or a library's header
            below = order.index(target) < order.index(room)
            if room == "reference" and is_test(path):
                ok = target != "cli"
            elif allowed[room] is None or is_test(path):
                ok = below and not (room == "cli" and target == "reference")
            else:
                ok = target in allowed[room]
            if not ok:
                errors.append(f"{path.relative_to(SRC.parent)}: may not include {target}/")
    print("\n".join(errors) if errors else f"{files} files in {len(order)} rooms include only what is below them")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
