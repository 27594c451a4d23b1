"""Texts to compare tokenizers on: deterministic, from what Debian packages install and from Unicode's own ranges."""

import gettext
import glob
import itertools
import os
import random

TRANSLATIONS = "/usr/share/locale/{}/LC_MESSAGES/*.mo"  # Debian package iso-codes and what else is there
SCRIPTS = {
    "zh": (0x4E00, 0x9FA5),
    "ar": (0x621, 0x652),
    "hi": (0x901, 0x963),
    "th": (0xE01, 0xE4E),
    "ja": (0x3041, 0x30FA),
    "ko": (0xAC00, 0xD7A3),
    "ru": (0x410, 0x44F),
    "he": (0x5D0, 0x5EA),
    "ta": (0xB85, 0xBCD),
    "vi": (0x1EA0, 0x1EF9),
}
LANGUAGES = {
    "Chinese": "zh_CN",
    "Chinese, traditional": "zh_TW",
    "Arabic": "ar",
    "Hindi": "hi",
    "Thai": "th",
    "Japanese": "ja",
    "Korean": "ko",
    "Russian": "ru",
    "Hebrew": "he",
    "Tamil": "ta",
    "Vietnamese": "vi",
}
SOURCES = {  # language: globs, the first that has files counts (packages: python3, libc6-dev, g++, perl-base, cmake)
    "Python": ["/usr/lib/python3*/*.py"],
    "C": ["/usr/include/*.h"],
    "C++": ["/usr/include/c++/*/bits/*.h", "src/**/*.cc"],
    "Perl": ["/usr/share/perl/5*/*.pm", "/usr/lib/*/perl-base/*.pm"],
    "CMake": ["/usr/share/cmake-*/Modules/Find*.cmake"],
    "shell": ["/usr/bin/*grep", "/usr/sbin/*"],
}
ENGLISH = ["/usr/share/common-licenses/*", "/usr/share/doc/*/copyright"]
BYTES_PER_TOPIC = 260_000


def read_files(patterns, limit):
    """The beginning of what the patterns name, file by file in order, as one text of `limit` characters."""
    text = []
    size = 0
    for path in itertools.chain.from_iterable(sorted(glob.glob(p, recursive=True)) for p in patterns):
        if size >= limit or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            data = file.read(60_000)
        if b"\0" in data:
            continue
        text.append(data.decode("utf-8", "replace"))
        size += len(text[-1])
    return "".join(text)[:limit]


def made_up_words(locale, limit):
    """Words of a script's characters."""
    rng = random.Random(locale)
    low, high = SCRIPTS[locale[:2]]
    words = (
        "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9))) + rng.choice([" ", " ", "\n", ", "])
        for _ in range(limit // 2)
    )
    return "".join(words)[:limit]


def translations(locale, limit):
    """What is translated on this system, up to `limit` characters with made-up words where that is little."""
    lines = []
    for path in sorted(glob.glob(TRANSLATIONS.format(locale))):
        if os.path.islink(path):
            continue
        with open(path, "rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog
        lines += [
            f"{catalog[key]} ({key})" if i % 5 == 0 else catalog[key]
            for i, key in enumerate(sorted(k for k in catalog if isinstance(k, str)))
            if key
        ]
    separators = itertools.cycle([", ", "\n", "; ", "\r\n\r\n", "。", " ", "\t"])
    text = "".join(line + next(separators) for line in lines)[:limit]
    return text + made_up_words(locale, limit - len(text))


def cut(text, rng):
    """Documents of 1 to 30,000 characters, so that every kind of place becomes an end."""
    documents = []
    begin = 0
    while begin < len(text):
        size = int(3 ** rng.uniform(0, 9.4))
        documents.append(text[begin : begin + size])
        begin += size
    return documents


EMOJI = [
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇩🇪🇯🇵",
    "1️⃣",
    "❤️‍🔥",
    "🧑🏿‍🚀",
    "😀",
    "✈️",
    "🫱🏻‍🫲🏿",
    "\u200d",
    "\ufe0f",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\v", "\f", " " * 9]
MARKS = [
    "\u0301",
    "\u0323",
    "\u0308",
    "\u0345",
    "\u0334",
    "\u093c",
    "\u094d",
    "\u0e48",
    "\u3099",
    "\u05b0",
    "\u0655",
    "\u0f71",
    "\u1dfa",
    "\U00010f46",
    "\U00011930",
    "\U00010efd",
    "\u1161",
    "\u11a8",
    "\u200c",
]
BASES = list("aeoAESsuy") + [
    "\u1100",
    "\uac00",
    "\u0915",
    "\u304b",
    "\u05d0",
    "\u0627",
    "\U00011935",
    "\u212b",
    "\u2126",
    "\ufb1d",
    "\uf900",
    "\u0958",
    "\u1e9b",
    "\u00e9",
    "\U000105d2",
]
CONTRACTIONS = [
    "'s",
    "'S",
    "'t",
    "'re",
    "'VE",
    "'Ll",
    "'m",
    "'d",
    "'\u017f",
    "'",
    "'x",
    "''s",
    "\u2019s",
    "'\u212a",
    "'l",
]
CONTROL = [chr(c) for c in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0x200B, 0xAD, 0xFEFF, 0xFFFD, 0xFFFF)]
WORDS = "the of Lighthouse keeper went 12345 3.14 x_1 foo() // http://a.b/c?d=e -- ... \\n {} [] <tag> ½ Ⅷ ²".split()
RANGES = [
    (0x20, 0x7F),
    (0xA0, 0x250),
    (0x300, 0x370),
    (0x370, 0x530),
    (0x590, 0x700),
    (0x900, 0xE00),
    (0xE00, 0xF00),
    (0x1100, 0x1200),
    (0x2000, 0x2800),
    (0x3000, 0x3400),
    (0x4E00, 0x5200),
    (0xAC00, 0xAE00),
    (0x1F300, 0x1FB00),
    (0, 0xD800),
    (0xE000, 0x110000),
]


def random_string(rng, special):
    parts = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.randrange(10)
        if kind < 3:
            low, high = rng.choice(RANGES)
            parts.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6))))
        elif kind == 3:
            parts.append(rng.choice(BASES) + "".join(rng.choice(MARKS) for _ in range(rng.randint(0, 5))))
        else:
            parts.append(rng.choice((WORDS, SPACES, CONTRACTIONS, EMOJI, CONTROL, special)[kind - 4]))
    return "".join(parts)


def every_character():
    """Each character of the planes that have letters, between others and doubled, so that its classes show."""
    codes = [c for c in (*range(0x32400), *range(0xE0000, 0xE0200)) if not 0xD800 <= c < 0xE000]
    for begin in range(0, len(codes), 64):
        yield "".join(f"a{chr(c)}\u0323\u0301 {chr(c)}{chr(c)}b" for c in codes[begin : begin + 64])


def invalid_utf8(rng, texts):
    """Bytes that are not UTF-8: valid text with bytes dropped, changed and inserted, and every bad lead byte."""
    for text in texts:
        data = bytearray(text.encode())
        for _ in range(1 + len(data) // 20):
            i = rng.randrange(len(data) + 1)
            data[i : i + rng.randrange(2)] = bytes(rng.randrange(256) for _ in range(rng.randrange(3)))
        yield bytes(data)
    for lead in range(0x80, 0x100):
        for tail in (b"", b"\x80", b"\x9f", b"\xa0", b"\xbf", b"A", b"\x80\x80", b"\xbf\xbf\xbf", b"\x90\x80A"):
            yield b"a" + bytes([lead]) + tail


def build(special, seed=20250901):
    """{topic: [text or bytes]}. `special` are the added tokens' texts. Fails when a package's files are missing."""
    rng = random.Random(seed)
    topics = {"English": cut(read_files(ENGLISH, 2 * BYTES_PER_TOPIC), rng)}
    for name, locale in LANGUAGES.items():
        topics[name] = cut(translations(locale, BYTES_PER_TOPIC // 2), rng)
    for name, patterns in SOURCES.items():
        topics[f"{name} source"] = cut(read_files(patterns, BYTES_PER_TOPIC), rng)
    missing = [name for name, documents in topics.items() if sum(map(len, documents)) < 2000]
    if missing:
        raise SystemExit(f"no material for {', '.join(missing)}: install libc6-dev, g++, cmake")
    topics["every character"] = list(every_character())
    topics["long runs"] = [
        unit * (20_000 // len(unit))
        for unit in ("a", " ", "\n", " \n", "=", "9", "\u0301", "\u0301\u0323", "👍🏽", "中", "' ", "<|im_", "\r\n\t")
    ]
    topics["random strings"] = [random_string(rng, special) for _ in range(100_000)]
    topics["invalid UTF-8"] = list(invalid_utf8(rng, topics["random strings"][:4000] + topics["Thai"][:50]))
    return topics
