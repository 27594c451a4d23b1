"""Arithmetic with thinking: digits written out as at school, then the answer."""
from . import words as W
from .chats import Chat

DIGIT_NAMES = ("ones", "tens", "hundreds", "thousands", "ten thousands")
ASK = ["What is {x}?", "What is {x}?", "How much is {x}?", "Calculate {x}.", "Please work out {x}.", "{x} = ?"]


def digits(number):
    return [int(d) for d in reversed(str(number))]


def add(a, b):
    """The steps of a + b."""
    lines, carry = [], 0
    x, y = digits(a), digits(b)
    for i in range(max(len(x), len(y))):
        p, q = (x[i] if i < len(x) else 0), (y[i] if i < len(y) else 0)
        total = p + q + carry
        terms = f"{p} + {q} + {carry}" if carry else f"{p} + {q}"
        carry = total // 10
        lines.append(f"{DIGIT_NAMES[i]}: {terms} = {total}, write {total % 10}" + (", carry 1" if carry else ""))
    if carry:
        lines.append("then write 1")
    return lines


def subtract(a, b):
    """The steps of a - b, for a >= b."""
    lines, borrow = [], 0
    x, y = digits(a), digits(b)
    for i in range(len(x)):
        q = y[i] if i < len(y) else 0
        top = x[i] - borrow
        note = f"{x[i]} - {borrow} = {top}, " if borrow else ""
        borrow = int(top < q)
        if borrow:
            note += f"{top} is less than {q}, borrow 1, "
            top += 10
        lines.append(f"{DIGIT_NAMES[i]}: {note}{top} - {q} = {top - q}")
    return lines


def multiply(a, b):
    """The steps of a * b, for one digit b."""
    lines, carry = [], 0
    for i, d in enumerate(digits(a)):
        product = d * b
        total = product + carry
        text = f"{DIGIT_NAMES[i]}: {d} * {b} = {product}"
        if carry:
            text += f", {product} + {carry} = {total}"
        carry = total // 10
        lines.append(f"{text}, write {total % 10}" + (f", carry {carry}" if carry else ""))
    if carry:
        lines.append(f"then write {carry}")
    return lines


def problem(rng):
    """(expression, value, steps)."""
    r = rng.random
    size = 10 ** (1 + int(r() * 3))
    a, b = int(r() * size), int(r() * size)
    kind = r()
    if kind < 0.45:
        return f"{a} + {b}", a + b, add(a, b)
    if kind < 0.8:
        a, b = max(a, b), min(a, b)
        return f"{a} - {b}", a - b, subtract(a, b)
    b = 2 + int(r() * 8)
    return f"{a} * {b}", a * b, multiply(a, b)


STORIES = [
    ("{A} has {a} {f} and gets {b} more. How many {f} does {A} have?", "+"),
    ("There are {a} {f} on the table. {A} brings {b} more. How many {f} are there now?", "+"),
    ("{A} found {a} {f}, and {B} found {b}. How many {f} did they find together?", "+"),
    ("{A} has {a} {f} and gives {b} to {B}. How many {f} are left?", "-"),
    ("There were {a} {f} in the basket. {A} ate {b}. How many {f} are left?", "-"),
    ("{A} sells {b} of {a} {f}. How many {f} does {A} keep?", "-"),
    ("{A} has {b} boxes with {a} {f} in each. How many {f} does {A} have?", "*"),
    ("Every day {A} picks {a} {f}. How many {f} are that in {b} days?", "*"),
]
COUNTED = W.words("apples nuts cherries melons carrots plums pears eggs berries stones shells coins books stamps buttons")


def story_problem(rng):
    r = rng.random
    text, operation = STORIES[int(r() * len(STORIES))]
    names = rng.sample(W.GIRLS + W.BOYS, 2)
    thing = COUNTED[int(r() * len(COUNTED))]
    a, b = 2 + int(r() * 97), 2 + int(r() * 97)
    if operation == "*":
        b = 2 + int(r() * 8)
    if operation == "-":
        a, b = max(a, b), min(a, b)
    value, steps = {"+": (a + b, add), "-": (a - b, subtract), "*": (a * b, multiply)}[operation]
    return text.format(A=names[0], B=names[1], a=a, b=b, f=thing), f"{a} {operation} {b}", value, steps(a, b), thing


def arithmetic(rng, words, accept=False, log=False):
    chat = Chat("arithmetic")
    count = max(1, min(40, int(words / 60)))
    for _ in range(count):
        if rng.random() < 0.3:
            question, expression, value, steps, thing = story_problem(rng)
            answer = f"The answer is {value} {thing}."
            others = [f"{value} {thing}"]
        else:
            expression, value, steps = problem(rng)
            question = ASK[int(rng.random() * len(ASK))].format(x=expression)
            answer, others = f"{expression} = {value}.", [f"The answer is {value}"]
        chat.add("user", question)
        thinking = "\n".join([expression, *steps])
        chat.questions.append({"message": len(chat.messages), "type": "arithmetic", "answer": answer,
                               "accept": [answer, str(value), *others], "distance": None, "expression": expression})
        chat.add("assistant", f"<think>\n{thinking}\n</think>\n\n{answer}")
    return chat.document(accept)
