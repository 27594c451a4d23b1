#!/usr/bin/env python3
"""Generates src/tokenizer/unicode_tables.inc.

The tokenizer must cut text exactly where the `tokenizers` library does, so the classes are asked of that library (its
Oniguruma carries Unicode 16.0) and not of some Unicode file of another year. The same holds for NFC: the library's
tables are those of Unicode 9.0, so characters that gained a combining class or a composition later must pass through
unchanged; utf8proc, which knows them, may not see them ("barriers"). Which characters any newer utf8proc could touch
is read from unicodedata2, the newest Unicode data there is.

    pip install tokenizers==0.23.3 unicodedata2==18.0.0
    tools/generate_unicode_tables.py > src/tokenizer/unicode_tables.inc
"""

import sys

import tokenizers
import unicodedata2 as ucd
from tokenizers import Regex, normalizers, pre_tokenizers

LETTER, NUMBER, SPACE = 1, 2, 3
NFC_UNSTABLE, NFC_BARRIER = 4, 8
BLOCK = 128
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL_V_T = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]


def library_class(pattern):
    """Code points that the library's regex engine matches with a one-character class."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    rest = split.pre_tokenize_str("".join(map(chr, ALL)))
    return set(ALL) - {ord(char) for piece, _ in rest for char in piece}


def compositions():
    """Primary composites of the newest Unicode data: {composite: (first, second)}."""
    pairs = {}
    for c in ALL:
        fields = ucd.decomposition(chr(c)).split()
        if len(fields) == 2 and not fields[0].startswith("<") and ucd.normalize("NFC", chr(c)) == chr(c):
            pairs[c] = (int(fields[0], 16), int(fields[1], 16))
    return pairs


def nfc_classes():
    """(unstable, barrier): what NFC may change or reorder, and what only a newer NFC than the library's would."""
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    pairs = compositions()
    composing_in_library = set(HANGUL_V_T)
    for c, (first, second) in pairs.items():
        if nfc(chr(first) + chr(second)) == chr(c):
            composing_in_library |= {first, second}
    touched = {c for c in ALL if ucd.combining(chr(c)) or ucd.normalize("NFC", chr(c)) != chr(c)}
    touched |= {second for _, second in pairs.values()} | set(HANGUL_V_T)

    def is_barrier(c):
        char = chr(c)
        blocks = all(nfc("a" + char + mark) == "a" + char + mark for mark in ("\u0323", "\u0301"))
        return blocks and nfd(char) == nfc(char) == char and c not in composing_in_library

    barrier = {c for c in touched | {first for first, _ in pairs.values()} | set(pairs) if is_barrier(c)}
    for first, second in pairs.values():
        assert {first, second} <= composing_in_library or {first, second} & barrier, (hex(first), hex(second))
    return touched - barrier, barrier


def main():
    flags = bytearray(0x110000)
    for value, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        for c in library_class(pattern):
            flags[c] |= value
    unstable, barrier = nfc_classes()
    for c in unstable:
        flags[c] |= NFC_UNSTABLE
    for c in barrier:
        flags[c] |= NFC_BARRIER

    end = max(c for c in ALL if flags[c]) // BLOCK + 1
    blocks, index = {}, []
    for i in range(end):
        index.append(blocks.setdefault(bytes(flags[i * BLOCK : (i + 1) * BLOCK]), len(blocks)))
    assert len(blocks) <= 256, len(blocks)

    count = lambda value: sum(1 for f in flags if f & 3 == value)
    out = sys.stdout
    out.write("// Written by tools/generate_unicode_tables.py; do not edit.\n")
    out.write(
        f"// Classes as in tokenizers {tokenizers.__version__}: {count(LETTER)} letters (L), {count(NUMBER)} numbers"
    )
    out.write(f" (N), {count(SPACE)} spaces (White_Space);\n// {len(unstable)} characters that NFC may touch, ")
    out.write(
        f"{len(barrier)} that only a newer NFC than the library's touches (data: Unicode {ucd.unidata_version}).\n"
    )
    out.write(
        "// A flag set is the low nibble of a character: '@' is none, 'A' letter, 'B' number, 'C' space, +4 NFC may\n"
    )
    out.write("// touch it, +8 NFC barrier.\n// clang-format off\n")
    out.write(
        f"inline constexpr uint32_t kUnicodeTableEnd = {end * BLOCK:#x};  // code points from here on have no flags\n"
    )
    out.write(f"inline constexpr uint8_t kUnicodeBlockIndex[{end}] = {{\n")
    line = ""
    for number in index:
        if len(line) + len(str(number)) + 1 > 116:
            out.write("  " + line + "\n")
            line = ""
        line += f"{number},"
    out.write("  " + line + "\n};\n")
    out.write(f"inline constexpr char kUnicodeBlocks[{len(blocks) * BLOCK} + 1] =\n")
    text = "".join(chr(0x40 + f) for block in blocks for f in block)
    for i in range(0, len(text), 112):
        out.write(f'  "{text[i:i + 112]}"\n')
    out.write("  ;\n// clang-format on\n")


if __name__ == "__main__":
    main()
