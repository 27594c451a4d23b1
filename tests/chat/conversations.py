"""Random conversations and random expressions for tests/chat/compare.py."""

WORDS = ["hello", "Paris", "x = 1", "naïve", "日本語", "🙂", "<b>&amp;</b>", "a'b", 'say "hi"', "line\nbreak", "tab\there",
         "\\n", "", " ", "\n\n", "{{ x }}", "{% if %}", "İstanbul ß", "é", " ", "{#", "</think>", "<think>"]
KEYS = ["city", "unit", "n", "größe", "a b", "items", "get", "_private", "type", "name", "", "keys"]


def text(r, most=6):
    return " ".join(r.choice(WORDS) for _ in range(r.randint(0, most)))


def number(r):
    return r.choice([0, 1, -7, 2**53, 1.0, -0.5, 1e16, 1e-7, 123456.789, 3.14, 1e22, 18446744073709551615])


def value(r, depth=0):
    kind = r.randint(0, 6 if depth < 3 else 4)
    if kind <= 1:
        return text(r, 3)
    if kind == 2:
        return number(r)
    if kind == 3:
        return r.choice([True, False])
    if kind == 4:
        return None
    if kind == 5:
        return [value(r, depth + 1) for _ in range(r.randint(0, 3))]
    return {r.choice(KEYS): value(r, depth + 1) for _ in range(r.randint(0, 3))}


def schema(r):
    one = {"type": r.choice(["string", "integer", "object", ["string", "null"]])}
    if r.random() < 0.7:
        one["description"] = "  " + text(r, 4) + " "
    for key in ["enum", "default", "items", "minimum", "required", "additionalProperties"]:
        if r.random() < 0.2:
            one[key] = value(r, 2)
    return one


def tool(r):
    function = {"name": r.choice(["get_weather", "search", "größe"]), "description": text(r)}
    if r.random() < 0.9:
        function["parameters"] = {
            "type": "object",
            "properties": {r.choice(KEYS): schema(r) for _ in range(r.randint(0, 4))},
            "required": [r.choice(KEYS) for _ in range(r.randint(0, 2))],
        }
    if r.random() < 0.2:
        function["strict"] = r.choice([True, False, None])
    return {"type": "function", "function": function} if r.random() < 0.9 else function


def content(r):
    kind = r.random()
    if kind < 0.75:
        return text(r)
    if kind < 0.85:
        return None
    return [{"type": "text", "text": text(r, 3)} if r.random() < 0.8 else {"type": "image", "url": "u"}
            for _ in range(r.randint(0, 3))]


def assistant(r):
    message = {"role": "assistant"}
    if r.random() < 0.95:
        message["content"] = content(r)
    kind = r.random()
    if kind < 0.2:
        message["reasoning_content"] = r.choice([text(r), "\nthought\n", "", None])
    elif kind < 0.5:
        message["content"] = r.choice(["<think>\n", "<think>", ""]) + text(r) + r.choice(["\n</think>\n\n", "</think>"]) + text(r)
    if r.random() < 0.4:
        calls = []
        for _ in range(r.randint(0, 3)):
            arguments = {r.choice(KEYS): value(r, 1) for _ in range(r.randint(0, 3))}
            call = {"name": r.choice(["search", "f"]), "arguments": arguments if r.random() < 0.8 else '{"a": 1}'}
            calls.append({"type": "function", "function": call} if r.random() < 0.7 else call)
        message["tool_calls"] = calls
    return message


def conversation(r):
    """The variables of one rendering. Some conversations are ones that templates refuse."""
    messages = []
    if r.random() < 0.4:
        messages.append({"role": "system", "content": text(r) if r.random() < 0.9 else content(r)})
    for _ in range(r.randint(0 if messages else 1, 5)):
        user = content(r) if r.random() < 0.3 else text(r)
        if r.random() < 0.1:
            user = "<tool_response>\n" + text(r) + "\n</tool_response>"
        messages.append({"role": "user", "content": user})
        for _ in range(r.randint(0, 2)):
            messages.append(assistant(r))
            for _ in range(r.choice([0, 0, 1, 2, 3])):
                messages.append({"role": "tool", "content": content(r) if r.random() < 0.2 else text(r), "name": "f"})
    if r.random() < 0.05:
        messages.append({"role": r.choice(["developer", "narrator", "system"]), "content": text(r)})
    variables = {"messages": messages, "add_generation_prompt": r.random() < 0.5}
    if r.random() < 0.6:
        variables["tools"] = [tool(r) for _ in range(r.randint(0, 3))] if r.random() < 0.8 else None
    if r.random() < 0.3:
        variables["enable_thinking"] = r.choice([True, False])
    if r.random() < 0.1:
        variables["weird key"] = value(r)
    return variables


# ---- expressions

VARIABLES = {"s": "Hello, Wörld 🙂", "t": "  a,b,,c \n", "e": "", "n": 7, "z": 0, "f": 2.5, "g": -1e16, "b": True, "o": None,
             "l": [3, 1, 2], "m": ["b", "A", "c", "a"], "d": {"k": "v", "n": 1, "items": [1], "u": {"x": [1, 2]}},
             "rows": [{"name": "ann", "age": 3, "on": True}, {"name": "Bob", "age": 1, "on": False}, {"name": "cy"}],
             "mixed": [1, "a", None, 2.0, True, [1], {"q": 1}]}
ATOMS = list(VARIABLES) + ["nope", "1", "-3", "0", "2.0", "1e3", "'x'", "'ab'", '"é"', "''", "true", "none", "[]", "[1, 'a']",
                           "{}", "{'a': 1, 'b': [2]}", "(1, 2)", "()", "(1,)", "range(4)", "d.u", "rows[0]", "l[1]", "'%s|%5.2f'"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "**"]
FILTERS = ["tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(sort_keys=true)", "tojson(separators=(',', ':'))",
           "trim", "trim('a ')", "length", "count", "items|list", "dictsort", "dictsort(by='value')", "list", "join", "join(', ')",
           "join('-', attribute='name')", "string", "int", "int(5)", "float", "default('D')", "d('D', true)", "replace('a', 'ZZ')",
           "replace('l', '', 1)", "upper", "lower", "title", "capitalize", "first", "last", "reverse|list", "sort", "sort(reverse=true)",
           "sort(attribute='age')", "sort(case_sensitive=true)", "unique|list", "map('upper')|list", "map(attribute='name')|list",
           "map(attribute='age', default=0)|list", "map('int', 9)|join('/')", "select|list", "select('odd')|list", "select('string')|list",
           "reject('none')|list", "selectattr('on')|list", "selectattr('age', 'gt', 2)|list", "rejectattr('age', 'defined')|list",
           "sum", "sum(attribute='age')", "sum(start=5)", "min", "max", "abs", "round", "round(1)", "round(1, 'floor')", "e ~ ''",
           "indent", "indent(2, true)", "indent(first=true, blank=true)", "wordcount", "batch(2)|list", "batch(2, 0)|list", "attr('k')",
           "format(1, 2)", "length + 1", "max(attribute='age')"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float", "boolean", "true",
         "false", "odd", "even", "divisibleby 3", "divisibleby(2)", "equalto 1", "eq 'x'", "ne none", "lt 3", "ge(2)", "in [1, 'a']",
         "in 'abc'", "callable", "lower", "upper", "not none", "not string", "filter", "gt 1 and true"]
METHODS = ["strip()", "lstrip()", "rstrip(' \\n')", "strip('H')", "split(',')", "split()", "split(',', 1)", "rsplit(',', 1)", "rsplit()",
           "split(maxsplit=1)", "splitlines()", "startswith('H')", "startswith(('x', ' '))", "endswith('\\n')", "replace('l', 'L')",
           "replace('', '.')", "replace('a', 'b', 1)", "upper()", "lower()", "title()", "capitalize()", "find('l')", "find('o', 5)",
           "find('zz')", "rfind('l')", "count('l')", "count('')", "join(['1', '2'])", "isdigit()", "isalpha()", "isspace()", "isupper()",
           "islower()", "removeprefix('He')", "removesuffix('c')", "partition(',')", "rpartition(',')", "format(1)", "index('l')",
           "get('k')", "get('zz', 3)", "get('zz')", "items()", "keys()", "values()", "items()|list", "append(1)", "pop()", "update({})",
           "index(1)", "copy()", "center(20, '*')", "ljust(20)", "__class__", "_x", "name", "k", "u.x[0]", "nope.nope"]
SLICES = ["[0]", "[-1]", "[99]", "['k']", "[1:]", "[:-1]", "[::-1]", "[::2]", "[-3:2]", "[5:1:-2]", "[:]", "[none:2]", "['a']", "[1.5]", "[true]"]


def expression(r, depth=0):
    kind = r.randint(0, 9)
    if depth > 3 or kind == 0:
        return r.choice(ATOMS)
    inner = lambda: expression(r, depth + 1)  # noqa: E731
    if kind <= 2:
        return f"({inner()} {r.choice(BINARY[:-1])} {inner()})"
    if kind <= 5:
        return f"({inner()})|{r.choice(FILTERS)}" if r.random() < 0.5 else f"({r.choice(ATOMS)})|{r.choice(FILTERS)}"
    if kind == 6:
        return f"({inner()} is {r.choice(TESTS)})"
    if kind == 7:
        return f"({r.choice(ATOMS)}).{r.choice(METHODS)}"
    if kind == 8:
        return f"({inner()}){r.choice(SLICES)}"
    return r.choice([f"({inner()} if {inner()} else {inner()})", f"(not {inner()})", f"[{inner()}, {inner()}]",
                     f"(-{r.choice(ATOMS)})", f"{{'a': {inner()}, {r.choice(ATOMS)}: {inner()}}}", f"({r.choice(ATOMS)} < {inner()} <= {inner()})",
                     f"({r.choice(ATOMS)} ** {r.choice(['2', '0', '-1', '0.5', 'n'])})", f"dict(a={inner()})", f"({inner()} if {inner()})"])


BODIES = [
    "{% for x in E %}{{ loop.index }}/{{ loop.first }}/{{ loop.last }}:{{ x }};{% else %}none{% endfor %}",
    "{% for x in E if x %}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ x }}{{ loop.nextitem }}{% endfor %}",
    "{% for k, v in (E)|items %}{{ k }}={{ v }}{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}",
    "{% for k, v in E %}{{ k }}{{ v }}{% continue %}never{% endfor %}",
    "{% set a, b = E, E %}{{ a }}{{ b }}",
    "{% set ns = namespace(x=E) %}{% for i in range(3) %}{% set ns.x = [ns.x, i] %}{% endfor %}{{ ns.x }}",
    "{% set x %}<{{ E }}>{% endset %}{{ x|length }}{{ x }}",
    "{% macro m(a, b=E) %}[{{ a }}{{ b }}]{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(E) }}{{ m(E, 2, 3, c=4) }}",
    "{% macro m(a) %}{{ caller(a) }}{% endmacro %}{% call(q) m(E) %}({{ q }}){% endcall %}",
    "{% filter upper %}a{{ E }}{% endfilter %}",
    "{% with y = E %}{{ y }}{% endwith %}{{ y is defined }}",
    "{% if E %}  yes\n {% elif E %}\n  maybe\n{% else -%}\n   no   {%- endif %}\n tail \n",
    " {%- if E +%} \n x {%+ endif %}  \n\n {# c -#}  \n y {%- raw %} {{ E }} {% endraw -%} z",
    "  {% for i in [1, 2] %}\n  {{ i }}\n  {% endfor %}\n\n",
    "{% generation %}{{ E }}{% set q = 1 %}{% endgeneration %}{{ q }}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{% set z = E %}{% endfor %}{{ z }}",
    "{{ E }}{# {{ #}{{- E -}} \n {{ E }}",
    "{% set s = E %}{% if s %}{% set s = 5 %}{% endif %}{{ s }}",
]


def statement(r):
    body = r.choice(BODIES)
    while "E" in body:
        head, _, tail = body.partition("E")
        body = head + expression(r, 2).replace("E", "e") + tail
    return body
