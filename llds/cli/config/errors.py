"""Errors of the configuration parser, made short: what was expected, what came, the nearest right key.

jsonargparse reports a wrong value as a tree: every alternative of every type on the way to it. Here the tree is read
back, its deepest leaves say what is wrong, and one sentence is made of them. A message that is not understood stays as
it is.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from omegaconf.errors import OmegaConfBaseException

from llds.cli.config.accepted import children, import_object, nearest, nearest_class, parameters
from llds.cli.config.base_keys import base_keys, right_key
from llds.cli.config.shipped import overlay_of, shipped_instead

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)':")
_GIVEN = re.compile(r"Given value: (?P<value>.*)")
_IGNORED = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value type:",
    "Subclass types expect",
    "a class path (",
    "a dict ",
)
_SETTINGS = {"model.lora": "{rank: 16}"}
"""Classes that are written by their settings alone."""
_TYPE_NAMES = {"int": "an integer", "float": "a number", "str": "a text", "bool": "true or false", "NoneType": "null"}


@dataclass(frozen=True)
class Finding:
    """A leaf of the tree.

    Attributes:
        depth: How deep it stands, in columns.
        key: Dotted key of the value in question; "" where the parser names none.
        class_path: Innermost class whose parameters are read there; "" for none.
        text: What the parser says of it.
        given: The value that came, as text.
    """

    depth: int
    key: str
    class_path: str
    text: str
    given: str = ""


def explain(message: str, options: Sequence[str]) -> str:
    """One sentence or two instead of the parser's message.

    Args:
        message: The parser's message.
        options: All dotted keys that the parser has.
    """
    for pattern, sentence in _WHOLE_MESSAGES:
        match = re.match(pattern, message, re.DOTALL)
        if match:
            return sentence(match, options)
    findings = read_findings(message)
    deepest = [one for one in findings if one.depth == max(other.depth for other in findings)]
    for finding in deepest:
        for pattern, explanation in _LEAVES:
            match = re.match(pattern, finding.text)
            if match:
                return explanation(finding, match)
        if finding.text.startswith("Expected `"):  # a message of ours, from a constructor
            return finding.text
    return _wrong_type(deepest) or message


def read_findings(message: str) -> list[Finding]:
    """The leaves of the parser's tree of errors.

    Args:
        message: The parser's message.
    """
    found: list[Finding] = []
    stack: list[tuple[int, str, str]] = []  # column, key, class path
    for line in message.splitlines():
        text = line.lstrip(" -")
        depth = len(line) - len(text)
        if not text:
            continue
        while stack and stack[-1][0] >= depth:
            stack.pop()
        key, class_path = (stack[-1][1], stack[-1][2]) if stack else ("", "")
        if match := _KEY.match(text):
            stack.append((depth, f"{key}.{match['key']}".lstrip("."), class_path))
            text, key = match["rest"], stack[-1][1]
        elif match := _CLASS.match(text):
            stack.append((depth, key, match["path"]))
            continue
        elif match := _GIVEN.match(text):
            found = [replace(one, given=match["value"]) if one.key == key and not one.given else one for one in found]
            continue
        if text and not text.startswith(_IGNORED):
            found.append(Finding(depth, key, class_path, text))
    return found


def _unrecognized(match: re.Match[str], options: Sequence[str]) -> str:
    words = match[1].split()
    keys = [word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")]
    if not keys:
        is_file = words[0].startswith("llds:") or words[0].endswith((".yaml", ".yml"))
        advice = f"-c {words[0]}" if is_file else "--KEY VALUE"
        return f"Expected options that start with --, got `{match[1]}`. Write {advice}."
    return unknown_key(keys[0], options)


def unknown_key(key: str, options: Sequence[str]) -> str:
    """The message for a dotted key that the parser does not have.

    Args:
        key: The key.
        options: All dotted keys.
    """
    known = ""
    for word in key.split("."):
        accepted = children(known, options)
        if word not in accepted:
            where = f"a key of `{known}`" if known else "a key that llds knows"
            prefix = f"{known}." if known else ""
            advice = _help_of(known) if word == "help" else right_key(word, accepted, prefix)
            return f"Expected {where}, got `{prefix}{word}`. {advice}"
        known = f"{known}.{word}".lstrip(".")
    return f"Expected another key than `{key}`. `llds fit --help` lists them."


def _help_of(key: str) -> str:
    return f"`llds fit --help` explains those of `{key}`." if key else "Write `llds fit --help`."


def dead_link(error: OmegaConfBaseException, key: str) -> str:
    """The message for a ``${...}`` that leads nowhere.

    Args:
        error: What OmegaConf raised.
        key: Dotted key where it stands.
    """
    return f"Expected the ${{...}} in `{key}` to lead to a value, got: {str(error).splitlines()[0]}."


def _no_keys(match: re.Match[str], options: Sequence[str]) -> str:
    key = match[1]
    inner = ", ".join(sorted(children(key, options)))
    return (
        f"Expected keys and values for `{key}`, got {match[2]}. Write --{key}.KEY VALUE"
        f"{f', with a KEY of {inner}' if inner else ''}."
    )


def no_value(option: str, args: Sequence[str]) -> str:
    """The message for an option without a value, with the whole key where the option takes the class above it.

    Args:
        option: Such as ``--model``.
        args: The command's arguments.
    """
    ends = [word for word, after in zip(args, [*args, "--"][1:], strict=True) if after.startswith("-")]
    word = next((one for one in ends if one.startswith(f"{option}.") and "=" not in one), option)
    if word.endswith(".help"):
        top = word.split(".")[0]
        return (
            f"Expected a class after `{word}`, got none. Write {word} CLASS; `llds fit {top}.help` says what may come."
        )
    return f"Expected a value after `{word}`, got none. Write {word} VALUE."


def _required(match: re.Match[str], options: Sequence[str]) -> str:
    keys = [key.partition(".")[2] for key in match[1].split(", ")]
    return (
        f"Expected a configuration with {' and '.join(f'`{key}`' for key in keys)}, got none. "
        "Name one, such as -c llds:quickstart (`llds configs` lists those that ship with llds)."
    )


def _no_such_file(path: str) -> str:
    advice = shipped_instead(path) or "Check the path after -c, or take one that ships with llds (`llds configs`)."
    return f"Expected a configuration file at {path}, got no such file. {advice}"


_WHOLE_MESSAGES: list[tuple[str, Callable[[re.Match[str], Sequence[str]], str]]] = [
    (r"unrecognized arguments: (.+)", _unrecognized),
    (r"Subcommand '[^']+' does not accept option '([^']+)'", lambda match, options: unknown_key(match[1], options)),
    (r"the following arguments are required: (.+)", _required),
    (r"argument (?:-\w/)?(--\S+): expected one argument", lambda match, _: no_value(match[1], [])),
    (r"Parser key \"([^\"]+)\":\s*Unable to load config '([^']*)'", _no_keys),
    (
        r"Parser key \"config\": File does not exist: '?([^']+)'?",
        lambda match, _: _no_such_file(match[1]),
    ),
    (
        r"Parser key \"config\": Path is not a file: '?([^']+)'?",
        lambda match, _: f"Expected a configuration file at {match[1]}, got a folder or a device. Name a file.",
    ),
]


def _unknown_parameter(finding: Finding, word: str, group: str = "") -> str:
    word = word.removeprefix("init_args.").split(".")[0]
    place = f"{finding.key}.{group}".strip(".")
    accepted = parameters(finding.class_path, group)
    outer = {"class_path", "init_args"} if not group else set()
    close_outer = nearest(word, outer) if outer else ""
    advice = close_outer if close_outer.startswith("Did") else right_key(word, accepted, f"{place}.")
    return f"Expected a parameter of {finding.class_path}{'.' * bool(group)}{group}, got `{place}.{word}`. {advice}"


def _nested_option(finding: Finding, key: str) -> str:
    group, _, word = key.removeprefix("init_args.").rpartition(".")
    return _unknown_parameter(finding, word, group)


def _no_such_class(finding: Finding, match: re.Match[str]) -> str:
    path = finding.class_path
    return f"Expected `{finding.key}` to name a class, got {path}, which does not exist. {nearest_class(path)}"


def _no_class(finding: Finding, match: re.Match[str]) -> str:
    if shipped := overlay_of(match[1]):
        return f"Expected `{finding.key}` to name a class, got {match[1]}. Its overlay sets it: -c llds:{shipped}."
    if finding.key in _SETTINGS:
        settings = _SETTINGS[finding.key]
        return f"Expected `{finding.key}` to be settings or null, got {match[1]}. Write --{finding.key} '{settings}'."
    usual = base_keys().get(finding.key)
    example = usual if isinstance(usual, str) else "package.module.Class"
    return (
        f"Expected `{finding.key}` to name a class, got {match[1]}. Write its full path, such as "
        f"`class_path: {example}`."
    )


def _wrong_class(finding: Finding, match: re.Match[str]) -> str:
    return (
        f"Expected `{finding.key}` to be a {match[2]}, got {match[1]}. "
        f"`llds fit --{finding.key.split('.')[0]}.help` lists the classes."
    )


def _abstract_class(finding: Finding, match: re.Match[str]) -> str:
    path = match[1] or finding.given
    missing = sorted(getattr(import_object(path), "__abstractmethods__", ()))
    if path.startswith("llds.") or not missing:
        return f"Expected `{finding.key}` to be a subclass of {path}, got the abstract class itself. Name a subclass."
    methods = " and ".join(f"`{name}`" for name in missing)
    return f"Expected {path} of `{finding.key}` to define {methods}, which its base class asks for, got none. Write it."


def _missing_parameter(finding: Finding, match: re.Match[str]) -> str:
    keys = " and ".join(f"`{finding.key}.{name}`" for name in match[1].split(", "))
    return f"Expected {keys} to be set, because {finding.class_path} needs it, got nothing. Set it."


_LEAVES: list[tuple[str, Callable[[Finding, re.Match[str]], str]]] = [
    (r"Option '([^']+)' is not accepted", lambda finding, match: _unknown_parameter(finding, match[1])),
    (
        r"Group '([^']+)' does not accept option '([^']+)'",
        lambda finding, match: _unknown_parameter(finding, match[2], match[1]),
    ),
    (r"unrecognized arguments: --([^=]+)", lambda finding, match: _nested_option(finding, match[1])),
    (r"module '[^']+' has no attribute|No module named|type object '[^']+' has no attribute", _no_such_class),
    (r"Expected a dot import path string: (.+)", _no_class),
    (r"Import path (\S+) does not correspond to a subclass of (\w+)", _wrong_class),
    (r"Expected an instantiatable class, but (?:(\S+) )?is abstract", _abstract_class),
    (r"the following arguments are required: (.+)", _missing_parameter),
]


def _wrong_type(findings: Sequence[Finding]) -> str:
    """The sentence for a value that is of none of the types it may be of; empty if that is not what is wrong."""
    types: list[str] = []
    choices: list[str] = []
    given = ""
    for finding in findings:
        match = re.match(r"Expected an? (.+?)(?:\. Got value: (.*))?$", finding.text)
        other = re.match(r"Not a valid subclass of (\w+)", finding.text)
        if match:
            choices += _choices(match[1])
            types += [] if _choices(match[1]) else [_type_name(match[1])]
            given = match[2] or finding.given
        elif other:
            types.append(f"a {other[1]}")
            given = finding.given
    if choices:
        types.insert(0, f"one of {', '.join(dict.fromkeys(choices))}")
    if not types or not findings[0].key:
        return ""
    nested = re.fullmatch(r"NestedArg\(key='[^']*', val=(.*)\)", given)
    value = (nested[1] if nested else given).strip("'\"")
    key = findings[0].key
    below = [one.removeprefix(f"{key}.") for one in base_keys() if one.startswith(f"{key}.")]
    if below and types == ["null"]:
        types.insert(0, "a class with its settings")
    settings = f"Write --{key}.KEY VALUE, with a KEY of {', '.join(below)}." if below else "Change the value."
    advice = nearest(value, choices) if choices else settings
    return f"Expected `{key}` to be {' or '.join(dict.fromkeys(types))}, got {value}. {advice}"


def _choices(text: str) -> list[str]:
    """The values of a literal type."""
    match = re.fullmatch(r"typing\.Literal\[(.+)\]", text)
    return [part.strip("'") for part in match[1].split(", ")] if match else []


def _type_name(text: str) -> str:
    """What a person calls a type."""
    match = re.fullmatch(r"<class '([^']+)'>", text)
    name = match[1].rpartition(".")[2] if match else text
    return _TYPE_NAMES.get(name, f"a {name}")
