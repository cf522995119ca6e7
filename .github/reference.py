"""Pages of the site that nobody writes: the help of commands, and the docstrings of what a configuration may name.

A hook of mkdocs (.github/mkdocs.yml). Sources are parsed, not imported, so that the build stays a matter of seconds.
"""

import ast
import inspect
import os
import re
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from llds.cli import main
from llds.cli.table import GROUPS

ROOT = Path(__file__).parents[1] / "llds"
PACKAGES = (
    *("losses", "rewards", "agent_tools", "rollout", "samplers", "retrieval", "retrieval/embedders", "data", "modules"),
    *("callbacks", "callbacks/ladder"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    files.append(File.generated(config, "commands.md", content=commands()))
    files.append(File.generated(config, "classes.md", content=classes()))
    return files


def commands() -> str:
    """What `--help` says, of each command by its group; those of Lightning's command line by their sentence alone."""
    os.environ["COLUMNS"] = "80"
    parts = ["# Commands"]
    for title, group in GROUPS.items():
        parts.append(f"## {title.capitalize()}")
        for command in group:
            parts.append(f"### llds {command.name}\n\n{command.help}")
            if command.trains:
                parts.append(f"`llds {command.name} --help` has its options; `llds configs show base` every setting.")
                continue
            with redirect_stdout(StringIO()) as shown, suppress(SystemExit):
                main([command.name, "--help"])
            parts.append(f"```text\n{shown.getvalue().strip()}\n```")
    return "\n\n".join(parts) + "\n"


def classes() -> str:
    """The docstrings of what the packages export, with the parameters that a configuration may set."""
    parts = ["# Classes", "What `class_path` in a configuration may name; its `init_args` are the arguments below."]
    for package in PACKAGES:
        name = f"llds.{package.replace('/', '.')}"
        exported = _exported(ROOT / package / "__init__.py")
        found = {node.name: node for path in sorted((ROOT / package).rglob("*.py")) for node in _classes(path)}
        parts.append(f"## {name}")
        parts += [_described(name, found[one]) for one in exported if one in found and not _is_record(found[one])]
    return "\n\n".join(parts) + "\n"


def _exported(path: Path) -> list[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(one) for one in ast.literal_eval(node.value)]
    return []


def _classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


def _is_record(node: ast.ClassDef) -> bool:
    """Whether it holds values that the program makes: nothing for a configuration."""
    text = ast.get_docstring(node) or ""
    return "\nAttributes:\n" in text and "\nArgs:\n" not in text


def _plain(text: str) -> str:
    """Without the marks of Sphinx: formulas as LaTeX."""
    text = re.sub(r"\.\. math::\n((?: {4}.*\n?)+)", lambda m: f"```latex\n{inspect.cleandoc(m[1])}\n```\n", text)
    return text.replace(":math:`", "`")


def _described(package: str, node: ast.ClassDef) -> str:
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    about, _, rest = text.partition("\nArgs:\n")
    said = about.partition("\nAttributes:\n")[0].partition("\nRaises:\n")[0].strip()
    arguments = re.split(r"\n(?=\S)", rest)[0]
    lines = re.split(r"\n(?=    \w+:)", f"\n{arguments}")[1:]
    rows = [re.sub(r"\s+", " ", line).strip().partition(": ") for line in lines]
    listed = "".join(f"* `{name}`: {meaning}\n" for name, _, meaning in rows)
    return f"### {node.name}\n\n`{package}.{node.name}`\n\n{_plain(said)}\n\n{_plain(listed)}".rstrip()
