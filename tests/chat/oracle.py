"""jinja2 set up as transformers sets it up for chat templates (utils/chat_template_utils.py), without transformers."""

import copy
import json
import warnings
from datetime import datetime, timezone

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """{% generation %}: transformers tracks the block's place; its text is that of the body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def environment(now=None):
    """`now`: what strftime_now reads, in seconds of Unix time (UTC)."""

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format):
        moment = datetime.now() if now is None else datetime.fromtimestamp(now, timezone.utc)
        return moment.strftime(format)

    class TemplateDict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    class TemplateNamespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attributes = dict(*args, **kwargs)
            for name in attributes:
                TemplateNamespace._check_name(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name, value):
            TemplateNamespace._check_name(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check_name(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"underscore-prefixed attribute {name!r}")

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    env.globals["dict"] = TemplateDict()
    env.globals["namespace"] = TemplateNamespace
    return env


def render(env, template, variables, compiled=None):
    """("text", rendering) or ("error", message). `compiled` keeps compiled templates for the next call."""
    try:
        found = None if compiled is None else compiled.get(template)
        if found is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's doubts about the code that jinja2 makes of odd expressions
                found = env.from_string(template)
            if compiled is not None:
                compiled[template] = found
        # A copy, because jinja2's filter indent changes a list that it is given by mistake.
        return "text", found.render(**copy.deepcopy(variables))
    except Exception as error:  # whatever Python raises in a template is its failure
        return "error", f"{type(error).__name__}: {error}"
