"""Stories as chats: told by the user or by the assistant, with questions on the way; and needles, with one at the end."""
import math

from . import filler
from .narrator import pieces
from .story import Story


class Chat:
    """Collects messages and what is known about the questions among them."""

    def __init__(self, kind):
        self.messages, self.questions, self.kind, self.tools = [], [], kind, None

    def add(self, role, content, **more):
        self.messages.append({"role": role, "content": content, **more})

    def ask(self, question, before=""):
        """A question in a user turn, after `before`, and its answer."""
        self.add("user", f"{before} {question['text']}" if before else question["text"])
        self.questions.append({"message": len(self.messages), **{k: question[k] for k in ("type", "answer", "accept", "distance")}})
        self.add("assistant", question["answer"])

    def document(self, accept=False, **meta):
        questions = self.questions if accept else [{k: v for k, v in q.items() if k != "accept"} for q in self.questions]
        out = {"messages": self.messages}
        if self.tools:
            out["tools"] = self.tools
        out["meta"] = {"kind": self.kind, **meta, "questions": questions}
        return out


def log_uniform(rng, low, high):
    return low * math.exp(rng.random() * math.log(max(high / low, 1.0)))


def settle(story, question):
    """Counts a question and its answer into the text."""
    story.position += pieces(question["text"]) + pieces(question["answer"])
    told = story.world.told
    if question["type"] == "recital":
        for key in told:
            if key[0] == "where":
                told[key] = story.position
    if question["type"].startswith(("where", "who", "contents", "belongings", "has", "is_")):
        for entity in (question["subject"], question["extra"]):
            if ("where", entity) in told:
                told["where", entity] = story.position


def paragraphs(story, count):
    """`count` sentences, in paragraphs when they are many."""
    if count <= 12:
        return story.tell(count)
    parts, end = [], story.sentences + count
    while story.sentences < end:
        parts.append(story.tell(min(end - story.sentences, 5 + int(story.random() * 6))))
    return "\n".join(parts)


def quiz(rng, words, accept=False, log=False):
    """A story told by the user, in short pieces with many questions: little else than answers to learn."""
    return story(rng, words, accept, log, quiz=True)


def story(rng, words, accept=False, log=False, quiz=False):
    """A story with questions; the teller is the user or the assistant."""
    chat = Chat("quiz" if quiz else "story")
    tale = Story(rng, words)
    longest = 8 if words < 200 or quiz else 12 if words < 800 else 24 if words < 4000 else 80
    burst = 6 if quiz else 2 if words < 200 else 4
    told = rng.random() < 0.3 and not quiz
    plain = told and rng.random() < 0.25  # a story and no questions
    first = True
    if told:
        text = paragraphs(tale, int(log_uniform(rng, 3, longest)))
        names = tale.characters()
        title = filler.TITLES[int(rng.random() * len(filler.TITLES))]
        chat.add("user", title.format(x=" and ".join(names[:1 + int(rng.random() * len(names))]) if names else "a day"))
        chat.add("assistant", text)
    while True:
        if not told:
            text = ("" if not first else filler.LISTEN[int(rng.random() * len(filler.LISTEN))])
            text += paragraphs(tale, int(log_uniform(rng, 2, longest)))
        elif not first:
            chat.add("user", filler.CONTINUE[int(rng.random() * len(filler.CONTINUE))])
            chat.add("assistant", paragraphs(tale, int(log_uniform(rng, 3, longest))))
        first = False
        pending = "" if told else text
        if not plain:
            for _ in range(1 + int(rng.random() * burst)):
                question = tale.question()
                if question is None:
                    break
                chat.ask(question, pending)
                settle(tale, question)
                pending = ""
            question = tale.recital() if quiz and rng.random() < 0.3 else None
            if question:
                chat.ask(question, pending)
                settle(tale, question)
                pending = ""
        if pending:  # nothing could be asked
            chat.add("user", pending)
            chat.add("assistant", "I see.")
        if tale.position >= words:
            break
    if told and rng.random() < 0.3:
        chat.add("user", "How does it end?")
        chat.add("assistant", filler.ENDINGS[int(rng.random() * len(filler.ENDINGS))])
    more = {"log": tale.world.log} if log else {}
    return chat.document(accept, words=tale.position, **more)


def day(rng, words, distance=None, kinds=None, accept=True, count=1):
    """One long text by the user and questions at its end, `distance` words after the sentence that decides. `kinds` are
    tuples of question types, one for each question in turn. None when the world has nothing at that distance to ask."""
    chat = Chat("needle")
    tale = Story(rng, words)
    parts = []
    while tale.position < words:
        parts.append(paragraphs(tale, min(40, 3 + words // 20)))
    told = "\n".join(parts) + "\n\n"
    wanted = distance or max(10, rng.random() * tale.position * 0.98)
    for i in range(count):
        question = None
        for turn in range(len(kinds) if kinds else 4):
            question = tale.question(wanted, exact=True, kinds=kinds[(i + turn) % len(kinds)] if kinds else None)
            if question:
                break
        if question is None and distance is None:
            question = tale.question()
        if question is None:
            break
        chat.ask(question, told if i == 0 else "")
        settle(tale, question)
    return chat.document(accept, words=tale.position) if chat.questions else None
