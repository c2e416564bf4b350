"""Command-line flags made from settings dataclasses, in two passes.

The first pass reads `--flagfile`s and finds `--algo`; only then is that algorithm's module
imported, and the second pass defines one absl flag per field of its `Config` and of the plans of a
`Job`, and parses strictly. All flags of a call live in a `FlagValues` of that call. Nothing here
imports TensorFlow, Reverb or gymnasium.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import pathlib
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from tfrl.config import foreign, idle, switches
from tfrl.errors import SettingError
from tfrl.job import PLANS, Job, algorithm, algorithms, settings_classes
from tfrl.settings import (
    Points,
    command_line_form,
    field_types,
    name_now,
    type_name,
    value_text,
)

PACKAGED = (
    pathlib.Path(__file__).parents[1] / "configs"
)  # of an installed package; a checkout has its own
CONFIGS = PACKAGED if PACKAGED.is_dir() else pathlib.Path(__file__).parents[2] / "configs"

_TITLES = {
    "job": "Run",
    "env": "Environment",
    "topology": "Processes and compilation",
    "evaluation": "Evaluation and export",
    "checkpoint": "Checkpoints",
    "log": "Console and logs",
}
_ALGOS = pathlib.Path(sys.modules[Job.__module__].__file__).parent / "algos"
_WITH = "switches to combine with the algorithm, applied in this order, the first one nearest to the environment"
_FLAGFILE = "file of flags, one --name=value per line; # starts a comment; later flags override earlier ones"


class Section(NamedTuple):
    """Settings that belong together: title, class, and names of the fields that are flags."""

    key: str
    title: str
    cls: type
    names: tuple[str, ...]


class Token(NamedTuple):
    """One argument, and where it was read: 'path:line', or '' for the command line."""

    text: str
    origin: str


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A parsed command line.

    Attributes:
      algo: name of the algorithm.
      given: section key ('config', 'job', a key of `PLANS` or of `settings_classes`) -> {setting: value}, of what was
        given only.
      asked_for: names of the settings that were given outside flagfiles.
      switches: names after `--with`; None: it was not given.
    """

    algo: str
    given: Mapping[str, Mapping[str, Any]]
    asked_for: tuple[str, ...] = ()
    switches: tuple[str, ...] | None = None

    def job(self) -> Job:
        """The Job, with defaults for all that was not given.

        Raises:
          SettingError: a value out of its limits, or values that exclude each other.
        """
        names = self.switches or ()
        parts = {
            key: cls(**self.given[key]) for key, cls in settings_classes(self.algo, names).items()
        }
        combined = {name: parts.pop(switches.key(name)) for name in names}
        return Job(
            algo=self.algo,
            switches=combined,
            asked_for=self.asked_for,
            **parts,
            **self.given["job"],
        )


def parse(argv: Sequence[str]) -> Job:
    """The Job that the arguments describe; `argv` is without the program's name.

    `--help` prints to stdout and raises SystemExit(0).

    Raises:
      SettingError: anything that cannot be used.
    """
    return parse_given(expand(argv)).job()


def parse_given(
    tokens: Sequence[Token], algo: str | None = None, combined: Iterable[str] = ()
) -> Parsed:
    """Parses the tokens of `expand` strictly; `--help` prints to stdout and raises SystemExit(0).

    Args:
      tokens: arguments.
      algo: default if `--algo` is not given, e.g. from a run to resume.
      combined: switches of the run to resume, the default if `--with` is not given.

    Raises:
      SettingError: an unknown flag, a value of the wrong type, a leftover argument, no algorithm.
    """
    algo = peek(tokens, "algo") or algo
    typed_with = peek(tokens, "with")
    names = None if typed_with is None else tuple(_convert(typed_with, tuple[str, ...]))
    combined = tuple(combined if names is None else names)
    if wants_help(tokens):
        print(help_text(algo, combined))
        raise SystemExit(0)
    if not algo:
        raise SettingError(f"--algo: not given; expected one of {', '.join(algorithms())}")
    classes = settings_classes(algo, combined)  # settings that collide are refused here
    sections = job_sections(classes["config"], combined)
    known = {name for section in sections for name in section.names}
    tokens = [_token_now(token, known) for token in tokens]
    values = _parse_sections(
        tokens,
        sections,
        {"algo": str, "with": tuple[str, ...]},
        hint=lambda name: switch_hint(name) or _owners(name, algo),
    )
    given = {s.key: {n: values[n] for n in s.names if n in values} for s in sections}
    typed = [t.text.lstrip("-").partition("=")[0] for t in tokens if not t.origin]
    asked_for = tuple(n for n in values if n in typed or f"no{n}" in typed)
    return Parsed(algo, given, asked_for, names)


def parse_options(
    cls: type, argv: Sequence[str], usage: str, positional: str = ""
) -> tuple[Any, list[str]]:
    """Parses the flags of a launcher that has one options dataclass; `--help` prints to stdout and raises
    SystemExit(0).

    Args:
      cls: settings dataclass; every field becomes a flag.
      argv: arguments without the program's name.
      usage: first lines of `--help`.
      positional: what positional arguments are, e.g. 'run folders'; empty: there are none.

    Returns:
      An instance of `cls`, and the positional arguments.

    Raises:
      SettingError: anything that cannot be used.
    """
    tokens = expand(argv)
    section = Section("options", "Options", cls, tuple(field_types(cls)))
    if wants_help(tokens):
        print("\n".join([usage, "", *_section_help(section)]))
        raise SystemExit(0)
    leftovers: list[str] | None = [] if positional else None
    values = _parse_sections(tokens, [section], {}, leftovers=leftovers)
    return cls(**values), leftovers or []


def job_sections(config: type | None, combined: Iterable[str] = ()) -> list[Section]:
    """The sections of a job's flags: the algorithm's own first where its `Config` is given, then those of switches.

    Args:
      config: settings of the algorithm.
      combined: names of switches.
    """
    scalars = tuple(f.name for f in dataclasses.fields(Job) if f.metadata)
    sections = [Section("job", _TITLES["job"], Job, scalars)]
    sections += [
        Section(key, _TITLES[key], cls, tuple(field_types(cls))) for key, cls in PLANS.items()
    ]
    own = [
        Section(switches.key(name), f"Switch {name}", m.Config, tuple(field_types(m.Config)))
        for name, m in switches.modules(combined).items()
    ]
    sections = [*own, *sections]
    if config is not None:
        sections.insert(0, Section("config", "Algorithm", config, tuple(field_types(config))))
    return sections


# First pass: tokens.


def expand(argv: Iterable[str]) -> list[Token]:
    """Replaces every `--flagfile` by the lines of the file, in place, so that later arguments win.

    The path in a nested `--flagfile` is looked up beside the file that names it, then from the
    working directory, then among the configs of tfrl, where `dqn/cartpole` will do.

    Raises:
      SettingError: a file that does not exist or includes itself, or a line that is not a flag.
    """
    tokens = [Token(text, "") for text in argv]
    return _expand(tokens, (), peek(tokens, "algo") or "")


def _expand(tokens: list[Token], parents: tuple[pathlib.Path, ...], algo: str) -> list[Token]:
    result: list[Token] = []
    rest = iter(tokens)
    for token in rest:
        if token.text == "--":
            return [*result, token, *rest]
        name, equals, path = token.text.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            result.append(token)
            continue
        if not equals:
            path = next(rest, Token("", "")).text
        result.extend(_read_flagfile(path, token.origin, parents, algo))
    return result


def _read_flagfile(
    path: str, origin: str, parents: tuple[pathlib.Path, ...], algo: str
) -> list[Token]:
    where = f" ({origin})" if origin else ""
    if not path:
        raise SettingError(f"--flagfile: expected the path of a file{where}")
    beside = parents[-1].parent / path if parents else pathlib.Path(path)
    places = (beside, pathlib.Path(path), *_packaged(path))
    file = next((place for place in places if place.is_file()), pathlib.Path(path))
    if file.resolve() in parents:
        raise SettingError(f"--flagfile={path}: the file includes itself{where}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SettingError(
            f"--flagfile={path}: no such file{_nearest_config(path, algo)}{where}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SettingError(f"--flagfile={path}: cannot be read ({reason}){where}") from None
    tokens = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name = line.partition("=")[0]
        if not name.startswith("--") or len(name.split()) != 1 or name == "--":
            raise SettingError(f"{path}:{number}: {line!r}: expected --name=value")
        tokens.append(Token(line, f"{path}:{number}"))
    return _expand(tokens, (*parents, file.resolve()), algo)


def _packaged(path: str) -> list[pathlib.Path]:
    """Candidate paths of a config of tfrl: `configs/dqn/cartpole.flags` from any folder, or `dqn/cartpole`."""
    name = pathlib.PurePath(path)
    if name.is_absolute() or ".." in name.parts:
        return []
    inside = pathlib.PurePath(*name.parts[1:]) if name.parts[:1] == ("configs",) else name
    return [CONFIGS / inside, CONFIGS / f"{inside}.flags"]


def _nearest_config(path: str, algo: str) -> str:
    """The config of tfrl whose name is nearest, for a message: of the folder given, of `algo`, or of any algorithm."""
    name = pathlib.PurePath(path)
    wanted = name.stem if name.suffix == ".flags" else name.name
    known = sorted(CONFIGS.rglob("*.flags"))
    algos = sorted({p.parent.name for p in known})
    folder = difflib.get_close_matches(name.parent.name, algos, n=1)
    for places in ([name.parent.name], [algo], folder, algos):
        here = [p for p in known if p.parent.name in places]
        close = difflib.get_close_matches(wanted, sorted({p.stem for p in here}), n=1, cutoff=0.7)
        if close:
            found = next(p for p in here if p.stem == close[0])
            place = found.relative_to(CONFIGS.parent)  # as the user would type it in the checkout
            if algo and found.parent.name not in (algo, name.parent.name, *folder):
                return f"; the nearest is {place}, of another algorithm"
            return f"; did you mean {place}?"
    return ""


def peek(tokens: Sequence[Token], name: str) -> str | None:
    """The last value given to a flag, before flags are defined; a bare boolean gives 'true'."""
    value = None
    texts = [t.text for t in tokens]
    if "--" in texts:
        texts = texts[: texts.index("--")]
    for text, following in zip(texts, [*texts[1:], ""]):
        bare = text.lstrip("-") if text.startswith("-") else ""
        if bare.startswith(f"{name}="):
            value = bare.partition("=")[2]
        elif bare == name:
            value = following if following and not following.startswith("-") else "true"
        elif bare == f"no{name}":
            value = "false"
    return value


def wants_help(tokens: Iterable[Token]) -> bool:
    """Whether the command line asks for help, in any of the four spellings."""
    return any(t.text in ("--help", "-help", "-h", "--h") for t in tokens)


def _token_now(token: Token, known: Container[str]) -> Token:
    """A line of a flagfile with a setting that has been renamed under the name of today; typed flags are refused."""
    name, equals, value = token.text.lstrip("-").partition("=")
    return (
        token._replace(text=f"--{name_now(name, known)}{equals}{value}") if token.origin else token
    )


# Second pass: absl.


class _Parser(flags.ArgumentParser):
    """absl parser of any type that a settings dataclass may have."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self.syntactic_help = type_name(kind)

    def parse(self, argument: str) -> Any:
        return convert(argument, self._kind)

    def flag_type(self) -> str:
        return type_name(self._kind)


def convert(text: str, kind: Any) -> Any:
    """Parses `text` as a value of type `kind`.

    The word `none` is None where None is allowed; lists are separated by commas; dicts are JSON
    objects; an int may be written 1e6 or 10_000.

    Raises:
      ValueError: 'expected <type>'.
    """
    try:
        return _convert(text, kind)
    except ValueError:
        form = command_line_form(kind)
        raise ValueError(f"expected {type_name(kind)}{form and f', {form}'}") from None


def _convert(text: str, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        # Any text is a str: it is tried last.
        for option in sorted(typing.get_args(kind), key=lambda k: (k is str, k is not type(None))):
            try:
                return _convert(text, option)
            except ValueError:
                continue
        raise ValueError(text)
    if kind == Points:
        pairs = [part.split(":") for part in text.split(",") if part.strip()]
        return tuple((float(at), float(value)) for at, value in pairs)
    if origin is tuple:
        element = typing.get_args(kind)[0]
        return (
            tuple(_convert(part.strip(), element) for part in text.split(","))
            if text.strip()
            else ()
        )
    if kind is dict or origin is dict:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(text)
        return value
    if kind is type(None):
        if text.lower() != "none":
            raise ValueError(text)
        return None
    if kind is bool:
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            number = float(text)
            if not number.is_integer():
                raise
            return int(number)
    if kind in (float, str):
        return kind(text)
    raise TypeError(f"a setting of type {kind} has no command-line form")


def _allows_bool(kind: Any) -> bool:
    return kind is bool or bool in typing.get_args(kind)


def define(
    sections: Sequence[Section], extra: Mapping[str, type] | None = None
) -> flags.FlagValues:
    """One flag per setting, in a `FlagValues` of its own.

    Raises:
      TypeError: two classes define the same name (a mistake in the program, not of its user).
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags are found after a leftover argument too
    owners: dict[str, str] = {}
    wanted = [(name, kind, "", "the command line itself") for name, kind in (extra or {}).items()]
    for section in sections:
        kinds = field_types(section.cls)
        fields = {f.name: f for f in dataclasses.fields(section.cls)}
        wanted += [
            (name, kinds[name], fields[name].metadata.get("help", ""), section.cls.__qualname__)
            for name in section.names
        ]
    for name, kind, text, owner in wanted:
        if name in owners or name == "flagfile":
            other = owners.get(name, "the command line itself")
            raise TypeError(f"flag --{name} is defined by {other} and by {owner}")
        owners[name] = owner
        # Defaults stay in the dataclass: a flag only records whether it was given.
        values[name] = flags.Flag(_Parser(kind), None, name, None, text, boolean=_allows_bool(kind))
    return values


def _parse_sections(
    tokens: Sequence[Token],
    sections: Sequence[Section],
    extra: Mapping[str, type],
    hint: Any = lambda name: "",
    leftovers: list[str] | None = None,
) -> dict[str, Any]:
    """{name: value} of the flags given; `leftovers` takes positional arguments, None refuses."""
    values = define(sections, extra)
    known = [*values, "flagfile", "help"]

    def origin(start: str) -> str:
        found = [t.origin for t in tokens if t.origin and t.text.lstrip("-").startswith(start)]
        return f" ({found[0]})" if found else ""

    def unknown(name: str) -> SettingError:
        guess = foreign.hint(name, known) or hint(name) or _nearest_flag(name, known)
        return SettingError(f"--{name}: unknown flag{guess}{origin(name)}")

    for token in tokens:
        if token.text == "--":
            break
        # absl would let this flag switch the refusal of unknown flags off.
        if token.text.lstrip("-").partition("=")[0] == "undefok":
            raise unknown("undefok")
    try:
        rest = values(["tfrl", *(t.text for t in tokens)])[1:]
    except flags.UnrecognizedFlagError as error:
        raise unknown(error.flagname) from None
    except flags.IllegalFlagValueError as error:
        message = str(error).removeprefix("flag ")
        raise SettingError(f"{message}{origin(message[2:].rpartition(': ')[0])}") from None
    except flags.Error as error:
        if "Missing value" not in str(error):
            raise
        name = str(error).rpartition(" ")[2].lstrip("-")
        raise SettingError(f"--{name}: expected a value") from None
    except ValueError as error:  # --noflag=value
        raise SettingError(str(error)) from None
    if rest and leftovers is None:
        raise SettingError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    if leftovers is not None:
        leftovers.extend(rest)
    return {name: values[name].value for name in values if values[name].present}


def _nearest_flag(name: str, known: Sequence[str]) -> str:
    bare = [name, name[2:]] if name.startswith("no") else [name]
    for word in bare:
        close = difflib.get_close_matches(foreign.plain(word), known, n=1, cutoff=0.6)
        if close:
            return f"; did you mean --{close[0]}?"
    return "; --help lists all flags"


def _owners(name: str, algo: str) -> str:
    """'; it is a setting of ppo, not of dqn' for a flag of others or its name elsewhere, read from their source."""
    fields = {a: _source_settings(_ALGOS / f"{a}.py") for a in algorithms() if a != algo}
    for setting in (name, *foreign.elsewhere(name)):
        owners = [other for other in fields if setting in fields[other]]
        if owners:
            what = "it is" if setting == name else f"here it is --{setting},"
            return f"; {what} a setting of {', '.join(owners)}, not of {algo}"
    return ""


def switch_hint(name: str) -> str:
    """'; it is a setting of the switch x; add --with=x' for a setting of a switch that is not in use."""
    for switch in switches.names():
        if name in _source_settings(switches.FOLDER / f"{switch}.py"):
            return f"; it is a setting of the switch {switch}; add --with={switch}"
    return ""


def _source_settings(path: pathlib.Path, name: str = "Config") -> list[str]:
    """Fields of a settings class and of its bases in tfrl, read from their source: importing them is slow."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    if not found:
        return []
    imported = {  # name here: (module, name there)
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    root = pathlib.Path(__file__).parents[2]
    fields = [n.target.id for n in found[0].body if isinstance(n, ast.AnnAssign)]
    for base in found[0].bases:
        head, _, attribute = ast.unparse(base).partition(".")
        module, there = imported.get(head, ("", head))
        if attribute:  # a class of an imported module
            module, there = f"{module}.{there}", attribute
        source = root.joinpath(*module.split(".")).with_suffix(".py") if module else path
        if source.is_file():
            fields += _source_settings(source, there)
    return fields


# Help and documentation.


def help_text(algo: str | None, combined: Iterable[str] = ()) -> str:
    """The text of `--help`: the algorithms, or all settings of one and of switches, and the common settings."""
    lines = ["Trains an agent: tfrl run --algo=NAME [--flagfile=FILE] [--SETTING=VALUE ...]", ""]
    if algo:
        module = algorithm(algo)
        sections = job_sections(module.Config, combined)
        first = (module.__doc__ or "").strip().splitlines()
        lines += [*textwrap.wrap(first[0], _width()), ""] if first else []
    else:
        sections = job_sections(None, combined)
        lines += ["Algorithms (--algo=NAME --help lists the settings of one):"]
        lines += _modules(_ALGOS, algorithms())
        lines += ["  or the dotted name of your own module with Config and make", ""]
    lines += ["Switches, which combine with any algorithm (--with=NAME,... --help adds theirs):"]
    lines += _modules(switches.FOLDER, switches.names())
    lines += ["  or the dotted name of your own module; docs/switches.md describes it", ""]
    lines += ["General", *_entry("--algo", "str", "required", "algorithm to train")]
    lines += [*_entry("--with", "list of str", "''; separated by commas", _WITH)]
    lines += [*_entry("--flagfile", "path", "none", _FLAGFILE), ""]
    for section in sections:
        lines += [*_section_help(section), ""]
    return "\n".join(lines).rstrip()


def _modules(folder: pathlib.Path, names: Sequence[str]) -> list[str]:
    """A line for each of these modules: its name and the first line of its docstring, read from its source."""
    lines, width = [], max(map(len, names), default=0)
    for name in names:
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lead = f"  {name:{width}}  "
        lines += textwrap.wrap(lead + first, _width(), subsequent_indent=" " * len(lead))
    return lines


def _section_help(section: Section) -> list[str]:
    lines = [section.title]
    fields = {f.name: f for f in dataclasses.fields(section.cls)}
    kinds = field_types(section.cls)
    for name in section.names:
        field = fields[name]
        meta = field.metadata
        form = command_line_form(kinds[name]).partition(", e.g.")[0]
        forms = [form] if form and kinds[name] is not bool else []
        known = idle.notes(meta, _names(section.cls))
        notes = [default_text(field), *forms, *_limits(meta), *known]
        unit = f" [{meta['unit']}]" if meta.get("unit") else ""
        lines += _entry(
            f"--{name}", type_name(kinds[name]) + unit, "; ".join(notes), meta.get("help", "")
        )
    return lines


def _entry(flag: str, kind: str, notes: str, text: str) -> list[str]:
    notes = notes if notes == "required" else f"default {notes}"
    head = textwrap.wrap(
        f"{flag}  {kind}; {notes}", _width(), initial_indent="  ", subsequent_indent=" " * 8
    )
    return head + textwrap.wrap(text, _width(), initial_indent=" " * 6, subsequent_indent=" " * 6)


def _width() -> int:
    return max(40, min(100, shutil.get_terminal_size((100, 24)).columns))


def _limits(meta: Mapping[str, Any]) -> list[str]:
    words = {"minimum": "at least", "above": "more than", "maximum": "at most"}
    limits = [f"{word} {meta[key]:g}" for key, word in words.items() if meta.get(key) is not None]
    if meta.get("choices"):
        limits.append("one of " + ", ".join(value_text(c) for c in meta["choices"]))
    return limits


def _names(cls: type) -> set[str]:
    """Settings of a class, and of the plans that every job has."""
    return {f.name for owner in (cls, *PLANS.values()) for f in dataclasses.fields(owner)}


def default_text(field: dataclasses.Field) -> str:
    """The default of a setting as a user would type it; 'required' where there is none."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return "required" if value is dataclasses.MISSING else value_text(value)


def settings_table(cls: type) -> str:
    """The settings of a dataclass as a Markdown table: what the docs pages show."""
    rows = [["setting", "type", "default", "unit", "meaning"], ["---"] * 5]
    kinds = field_types(cls)
    for field in dataclasses.fields(cls):
        meta = field.metadata
        meaning = "; ".join(
            part
            for part in (meta.get("help", ""), *_limits(meta), *idle.notes(meta, _names(cls)))
            if part
        )
        cells = [
            f"`{field.name}`",
            type_name(kinds[field.name]),
            f"`{default_text(field)}`",
            meta.get("unit", ""),
        ]
        rows.append([cell.replace("|", "\\|") for cell in (*cells, meaning)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
