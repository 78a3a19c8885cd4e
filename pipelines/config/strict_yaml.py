"""YAML as recipes and overrides have it: every key once, within bounds, and no value that could mean two things.

What two versions of YAML read differently is text here (`010`, `1:30`, `2024-01-31`): keys that want a number refuse it
then, and keys that want text take it as it was written. Bounds keep a small file from becoming a large document
(aliases of aliases) or a deep one.
"""

import re
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mpc_model.errors import UserError

LONGEST = 1 << 20
"""Characters of a document, or of an override."""
DEEPEST = 32
"""Lists and mappings inside each other."""
MOST_VALUES = 50_000
"""Values of a document, those that aliases repeat counted each time."""
LONGEST_NUMBER = 40
"""Characters of a number."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_STANDARD = "tag:yaml.org,2002:"
Path = tuple[str | int, ...]


class NotYamlError(UserError):
    """The text is not YAML."""


class Cut(NamedTuple):
    """What stands behind a value and was read as a comment, though it may belong to the value: `photos #2`."""

    line: int
    comment: str


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the scalars of this module, tags but `!!str` refused, and a bound on depth."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own, filled below
    _depth = _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Node | None:
        event = self.peek_event()
        where = f"line {event.start_mark.line + 1}"
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", f"{_STANDARD}str"):
            raise UserError(f"{where}: the tag {short(tag)} is not read; leave it out")
        self._depth += 1
        self._nodes += 1
        if self._nodes > MOST_VALUES:
            raise UserError(f"{where}: more than {MOST_VALUES} values")
        if self._depth > DEEPEST:
            raise UserError(
                f"line {event.start_mark.line + 1}: more than {DEEPEST} lists or mappings inside each other"
            )
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Any:
        """The text of a scalar. JSON writes a character beyond the first 65,536 as two escapes: they are joined."""
        text = super().construct_scalar(node)
        if not re.search("[\ud800-\udfff]", text):
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise UserError(f"line {node.start_mark.line + 1}: an escape in it is half a character") from None


for _name, _first, _pattern in (
    ("bool", "yYnNtTfFoO", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
    ("null", ["~", "n", "N", ""], "~|null|Null|NULL|"),
    ("int", "-+0123456789", "[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0b[01][01_]*)"),
    (
        "float",
        "-+.0123456789",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
    ),
    ("merge", "<", "<<"),
):
    _Loader.add_implicit_resolver(_STANDARD + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def parse(text: str, cuts: dict[Path, Cut] | None = None) -> Any:
    """The document that a text holds; None for an empty one. `cuts` receives what may have been cut off from values.

    Raises UserError, in one line that names the line of the text, for what is no YAML, is given twice, or exceeds the
    bounds of this module.
    """
    if len(text) > LONGEST:
        raise UserError(f"it has {len(text)} characters; {LONGEST} are the most")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {})
        _check(root, (), set(), text.splitlines(), {} if cuts is None else cuts)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise NotYamlError(f"it is not YAML: {short(' '.join(str(error).split()), 300)}") from None


def short(text: str, length: int = 100) -> str:
    """The text on one line that can be printed, or its beginning where it is long."""
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def _measure(node: Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node holds, and how deep they lie, with aliases as what they stand for.

    Anchors come before their aliases, so that a node that was measured already ends the recursion.
    """
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise UserError(f"line {node.start_mark.line + 1}: an alias stands for what it is part of")
        return found
    known[id(node)] = None
    count, depth = 1, 0
    for child in _children(node):
        more, below = _measure(child, known)
        count, depth = count + more, max(depth, below)
    if count > MOST_VALUES or depth >= DEEPEST:
        raise UserError(
            f"line {node.start_mark.line + 1}: with its aliases written out it would hold more than {MOST_VALUES}"
            f" values, or more than {DEEPEST} lists or mappings inside each other"
        )
    known[id(node)] = (count, depth + 1)
    return count, depth + 1


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _check(node: Node, path: Path, seen: set[int], lines: list[str], cuts: dict[Path, Cut]) -> None:
    """Refuse keys that are given twice and numbers that are too long; note what may have been cut off from values."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        lines_of: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode) or key.tag not in (f"{_STANDARD}str", f"{_STANDARD}merge"):
                raise UserError(f"line {line}: a key is text, and this one is not; quote it")
            below = (*path, key.value)
            if key.value in lines_of:
                name = short(".".join(map(str, below)))
                raise UserError(f"key {name!r} is given twice, {_lines(lines_of[key.value], line)}; keep one")
            lines_of[key.value] = line
            _check(value, below, seen, lines, cuts)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, (*path, index), seen, lines, cuts)
    elif isinstance(node, ScalarNode):
        line = node.start_mark.line + 1
        if node.tag in (f"{_STANDARD}int", f"{_STANDARD}float") and len(node.value) > LONGEST_NUMBER:
            raise UserError(f"line {line}: a number of {len(node.value)} characters; {LONGEST_NUMBER} are the most")
        end = node.end_mark
        rest = lines[end.line][end.column :] if not node.style and end.line < len(lines) else ""
        if comment := re.match(r"\s+(#\S.*)", rest):
            cuts[path] = Cut(line, comment[1])


def _lines(first: int, second: int) -> str:
    return f"in line {first}" if first == second else f"in lines {first} and {second}"
