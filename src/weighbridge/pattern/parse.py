r"""Read pattern text into a tree.

The grammar, from the loosest to the tightest:

    pattern   = branch ("|" branch)*
    branch    = "^"? part* "$"?
    part      = character | "\" punctuation | "."          a character that stands for itself
              | class ["?" "+" "*"]                        class = "\d" "\w" "[...]", and "." where one of these follows
              | "*"                                        an index
              | "(" pattern ")" | "\" digits               numbered capture, reference to it
              | "{" name [form] [":" kind] "}"
                    form = ("+" | "-") (digits | name ("." name)*) | ("//" | "%") digits
                    kind = "int" | "**" | literal ("|" literal)* | "0" digits
              | "(?:" pattern ")" ["?"]
              | "(?=" pattern ")" | "(?!" pattern ")" | "(?<=" pattern ")" | "(?<!" pattern ")"
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, NoReturn

from weighbridge.base.errors import PatternError
from weighbridge.base.json_text import shorten
from weighbridge.base.keys import INDEX_DIGITS, RESERVED, is_index
from weighbridge.pattern.indices import PLAIN, Form
from weighbridge.pattern.syntax import (
    ANY,
    INT,
    WORD,
    Capture,
    Chars,
    Choice,
    Edge,
    Guard,
    Maybe,
    Node,
    Nodes,
    Reference,
    Text,
    merge_texts,
    walk,
    width,
)

OFFSET_MAX: Final = 256
"""Largest offset of an index in a pattern, in either direction, and the most that it is divided by."""

MAX_CHARACTERS: Final = 65_536
MAX_PARTS: Final = 4096
"""Limits of a pattern, which leave room for a choice of some thousand words."""

_MAX_DEPTH: Final = 50
"""Groups inside groups; no key needs more than a few, and each is a step of recursion."""

_NAME: Final = "[A-Za-z_][A-Za-z0-9_]*"
_BRACE: Final = re.compile(
    rf"\{{({_NAME}|[0-9]+)(?:([+-]|//|%)([0-9]{{1,9}}|{_NAME}(?:\.{_NAME})*))?(?::([^{{}}]*))?\}}"
)
_DIGITS: Final = re.compile("0([1-9][0-9]?)")
_GROUP: Final = re.compile(r"\((?:\?(?P<mark>:|=|!|<=|<!))?")
_LITERALS: Final = re.compile(r"(?:[^\\^$*+?()\[\]{}|]|\\[^A-Za-z0-9])+(?:\|(?:[^\\^$*+?()\[\]{}|]|\\[^A-Za-z0-9])+)*")
_SET_ITEM: Final = re.compile(r"\\[dw]|(?:\\[^A-Za-z0-9]|[^\\\[\]])(?:-(?:\\[^A-Za-z0-9]|[^\\\[\]]))?")
_AFTER_STAR: Final = re.compile(r"\.|\\\.|\$|\Z")
_RESERVED: Final = re.compile(f"[{RESERVED}]")
_REPEAT_HINT: Final = (
    "only classes repeat; put the group's text in the pattern, or write (?:...)? for a part that may be missing"
)


def parse(text: str) -> Nodes:
    r"""Read a pattern's text.

    Raises:
        PatternError: `pattern-syntax`, with a caret under the place.

    Examples:
        >>> parse(r"layers\.{i:int}")
        (Text(text='layers.'), Capture(name='i', body=(Chars(members='\\d', repeat='+'),), form=Form(...)))
    """
    if len(text) > MAX_CHARACTERS:
        expected, got = f"at most {MAX_CHARACTERS:,} characters", f"{len(text):,}: {shorten(text)}"
        raise PatternError("pattern-syntax", "this pattern is too long", expected=expected, got=got)
    parser = _Parser(text)
    reserved = _RESERVED.search(text)
    if reserved:
        parser.fail("this character is reserved for templates", reserved.start())
    nodes = parser.pattern()
    if parser.at < len(text):
        parser.fail("this parenthesis closes nothing", hint=r"write \) for the character itself")
    if sum(1 for _ in walk(nodes)) > MAX_PARTS:
        raise PatternError(
            "pattern-syntax", "this pattern has too many parts", expected=f"at most {MAX_PARTS:,}", got=shorten(text)
        )
    return nodes


def syntax_error(text: str, at: int, what: str, hint: str = "") -> PatternError:
    """Make the error that shows a pattern with a caret under one of its columns."""
    return PatternError("pattern-syntax", what, got=f"{text}\n{' ' * at}^", hint=hint)


class _Parser:
    """A place in a pattern's text, and what has been bound up to there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.bound: dict[str, Nodes] = {}
        self.groups = 0
        self.stars = 0
        self.depth = 0
        self.guards = 0
        self.guard_groups = 0

    def fail(self, what: str, at: int | None = None, hint: str = "") -> NoReturn:
        raise syntax_error(self.text, self.at if at is None else at, what, hint)

    def peek(self, size: int = 1) -> str:
        return self.text[self.at : self.at + size]

    def pattern(self) -> Nodes:
        start, bound = self.at, len(self.bound)
        branches = [self.branch()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.branch())
        if len(branches) == 1:
            return branches[0]
        if len(self.bound) > bound:
            self.fail("a capture in one of several alternatives may have no text", start, "capture the whole group")
        return (Choice(tuple(branches)),)

    def branch(self) -> Nodes:
        nodes: list[Node] = []
        while self.at < len(self.text) and self.peek() not in "|)":
            nodes.extend(self.part(nodes))
        return merge_texts(nodes)

    def part(self, before: list[Node]) -> Nodes:
        match self.peek():
            case "\\":
                return self.escape()
            case ".":
                return self.dot()
            case "*":
                return self.star(before)
            case "(":
                return self.group()
            case "[":
                return self.chars(self.members())
            case "{":
                return self.brace()
            case "^" | "$":
                return self.edge(before)
            case "?" | "+" | "]" | "}" as char:
                self.refuse_stray(char)
            case char:
                self.at += 1
        return (Text(char),)

    def refuse_stray(self, char: str) -> NoReturn:
        what = "this character repeats nothing" if char in "?+" else "this bracket closes nothing"
        self.fail(what, hint=f"write \\{char} for the character itself")

    def edge(self, before: list[Node]) -> Nodes:
        at_end = self.peek() == "$"
        if not at_end and not all(isinstance(node, Guard | Edge) for node in before):
            self.fail("`^` stands for the start of the key", hint=r"write \^ for the character itself")
        self.at += 1
        if at_end and self.at < len(self.text) and self.peek() not in "|)" and self.peek(2) != "(?":
            self.fail("`$` stands for the end of the key", self.at - 1, r"write \$ for the character itself")
        return (Edge(at_end),)

    def escape(self) -> Nodes:
        number = re.compile(r"\\([1-9][0-9]?)").match(self.text, self.at)
        if number:
            self.at = number.end()
            self.refuse_repeat("a reference")
            return self.reference(number[1], number.start())
        char = self.peek(2)[1:]
        if char in ("d", "w"):
            self.at += 2
            return self.chars("\\" + char)
        if not char or char.isalnum():
            self.fail(
                f"`\\{char}` is not part of the language", hint=r"the escapes are \d, \w, \1 and \ before punctuation"
            )
        self.at += 2
        return (Text(char),)

    def reference(self, name: str, start: int, form: Form = PLAIN) -> Nodes:
        if self.guards and name not in self.bound:
            self.fail("a guard can refer only to a capture before it", start)
        return (Reference(name, form),)

    def dot(self) -> Nodes:
        following = self.peek(2)[1:]
        if following in ("+", "?") or (following == "*" and self.depth):
            self.at += 1
            return self.chars(".")
        if following == "*" and not _AFTER_STAR.match(self.text, self.at + 2):
            self.fail("`.*` is unclear here", self.at + 1, r"write (.*) for any text, or \.* for an index")
        self.at += 1
        return (Text("."),)

    def star(self, before: list[Node]) -> Nodes:
        if before and not isinstance(before[-1], Text | Edge):
            self.fail("only classes repeat", hint="a lone `*` is an index: write it after a dot")
        if self.peek(2) == "**":
            self.fail("`**` is not part of the language", hint="write {path:**} for any text")
        self.at += 1
        if self.guards:
            return INT
        self.stars += 1
        return self.bind(f"*{self.stars}", INT)

    def bind(self, name: str, body: Nodes, form: Form = PLAIN) -> Nodes:
        self.bound[name] = body
        return (Capture(name, body, form),)

    def chars(self, members: str) -> Nodes:
        repeat = self.peek() if self.at < len(self.text) and self.peek() in "?+*" else ""
        self.at += len(repeat)
        if repeat and self.at < len(self.text) and self.peek() in "?+*":
            self.fail("lazy and possessive repeats are not part of the language")
        self.refuse_counts()
        return (Chars(members, repeat),)

    def refuse_counts(self) -> None:
        if re.compile(r"\{[0-9]*,?[0-9]*\}").match(self.text, self.at):
            self.fail("counted repeats are not part of the language", hint="write + or *")

    def refuse_repeat(self, subject: str) -> None:
        if self.at < len(self.text) and self.peek() in "?+*":
            self.fail(f"{subject} cannot repeat in this language", hint=_REPEAT_HINT)
        self.refuse_counts()

    def members(self) -> str:
        start = self.at
        negated = self.peek(2) == "[^"
        self.at += 1 + negated
        items: list[str] = []
        while self.peek() != "]":
            item = _SET_ITEM.match(self.text, self.at)
            if item is None:
                self.fail("this class of characters cannot be read", start if self.at >= len(self.text) else None)
            items.append(self.set_item(item[0]))
            self.at = item.end()
        self.at += 1
        if not items:
            self.fail("this class of characters is empty", start)
        return "[" + "^" * negated + "".join(items) + "]"

    def set_item(self, item: str) -> str:
        if item in (r"\d", r"\w"):
            return item
        ends = re.findall(r"\\?(.)(?:-|\Z)", item, re.DOTALL) if len(item) > 1 else [item]
        if len(ends) == 2 and ends[0] > ends[1]:
            self.fail("this range of characters runs backwards")
        return "-".join("\\" + end if end in r"\]^-[&~|" else end for end in ends)

    def group(self) -> Nodes:
        start = self.at
        opening = _GROUP.match(self.text, start)
        if self.peek(2) == "(?" and (opening is None or not opening["mark"]):
            self.fail("this kind of group is not part of the language", hint="the groups are ( (?: (?= (?! (?<= (?<!")
        mark = opening["mark"] if opening else None
        self.at = opening.end() if opening else start + 1
        guard = mark not in (None, ":")
        bound, number = len(self.bound), self.number_group(mark, start)
        if self.depth == _MAX_DEPTH:
            self.fail("groups are nested too deeply", start)
        self.depth += 1
        self.guards += guard
        body = self.pattern()
        self.depth -= 1
        self.guards -= guard
        self.close(start)
        if guard:
            return self.guard(mark or "", body, start)
        if mark == ":" or self.guards:
            return self.plain_group(body, start, len(self.bound) > bound)
        if len(self.bound) > bound:
            self.fail("a capture cannot stand in a capture", start, "write (?:...) for the outer one")
        self.refuse_repeat("a capture")
        return self.bind(str(number), body)

    def number_group(self, mark: str | None, start: int) -> int:
        if mark is None and self.guards:
            self.guard_groups += 1
        elif mark is None:
            if self.guard_groups:
                self.fail("a numbered capture cannot follow a group in a guard", start, "write (?:...) in the guard")
            self.groups += 1
        return self.groups

    def close(self, start: int) -> None:
        if self.peek() != ")":
            self.fail("this parenthesis is not closed", start)
        self.at += 1

    def plain_group(self, body: Nodes, start: int, binds: bool) -> Nodes:
        if self.peek() != "?":
            self.refuse_repeat("a group")
            return body
        if binds:
            self.fail("a capture in a part that may be missing may have no text", start)
        self.at += 1
        self.refuse_repeat("a group")
        return (Maybe(body),)

    def guard(self, mark: str, body: Nodes, start: int) -> Nodes:
        self.refuse_repeat("a guard")
        ahead = not mark.startswith("<")
        if not ahead:
            branches = body[0].branches if len(body) == 1 and isinstance(body[0], Choice) else (body,)
            if any(width(branch) is None for branch in branches):
                self.fail("a look behind needs a fixed number of characters", start)
        return (Guard(body, ahead, mark.endswith("!")),)

    def brace(self) -> Nodes:
        start = self.at
        found = _BRACE.match(self.text, start)
        if found is None:
            self.fail(
                "this brace does not hold a capture", hint=r"write {name}, {name:int}, {name:**}, {name:q|k} or \{"
            )
        name, form = found[1], self.form(found)
        if name.isdigit() and form == PLAIN:
            self.fail("a number in braces needs an offset", hint=f"write \\{name} for the group's text")
        body = self.kind(found, form)
        self.at = found.end()
        self.refuse_repeat("a capture")
        if name in self.bound or name.isdigit():
            if found[4] is not None and not form.digits and body != self.bound.get(name):
                self.fail(f"`{name}` has another kind before", start)
            return self.reference(name, start, form)
        return body if self.guards else self.bind(name, body, form)

    def form(self, found: re.Match[str]) -> Form:
        digits = _DIGITS.fullmatch(found[4] or "")
        form = Form(digits=int(digits[1]) if digits else 0)
        if digits and not 1 < form.digits <= INDEX_DIGITS:
            self.fail(f"an index has 2 to {INDEX_DIGITS} digits", found.start(4))
        is_number = (found[3] or "").isdigit()
        match found[2]:
            case "//" | "%" as sign:
                if not is_number or not 1 < int(found[3]) <= OFFSET_MAX:
                    self.fail(f"an index is divided by 2 to {OFFSET_MAX}", found.start(3))
                return replace(form, divisor=int(found[3]), is_rest=sign == "%")
            case "+" | "-" as sign if not is_number:
                return replace(form, named=sign + found[3])
            case "+" | "-" as sign:
                if int(found[3]) > OFFSET_MAX:
                    self.fail(f"an offset is at most {OFFSET_MAX}", found.start(2))
                return replace(form, offset=int(sign + found[3]))
        return form

    def kind(self, found: re.Match[str], form: Form) -> Nodes:
        spelled = found[4]
        if spelled is None:
            return WORD if form == PLAIN else INT
        if spelled == "int" or form.digits:
            return INT
        if form != PLAIN and (form.divisor or "|" not in spelled):
            self.fail("only an index has an offset", found.start(2), "leave the kind out")
        if spelled == "**":
            return ANY
        if "|" not in spelled or not _LITERALS.fullmatch(spelled):
            self.fail(
                "this is not a kind of capture",
                found.start(4),
                "the kinds are int, **, literals such as q|k|v, and 02 for two digits",
            )
        literals = re.findall(r"(?:\\.|[^|\\])+", spelled)
        words = [re.sub(r"\\(.)", r"\1", literal) for literal in literals]
        if form != PLAIN and not all(map(is_index, words)):
            self.fail("only an index has an offset", found.start(2), "leave it out, or name numbers")
        return (Choice(tuple((Text(word),) for word in words)),)
