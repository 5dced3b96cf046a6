"""The only reader of YAML: no guessing at types, no objects, one line for each problem."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from realera.settings.errors import ConfigError, printable

Schema = TypeVar("Schema", bound=BaseModel)
Location = tuple[str | int, ...]


MOST_VALUES = 1_000_000
"""In a file, aliases counted as often as they stand there: a few lines of them can mean more than memory holds."""

_MOST_BITS = 10_000
_PLAIN = re.compile(r"[\w ./-]{1,60}")
_MOST_SHOWN = 20
"""Problems of a file that are said; a list of a thousand wrong words is one slip."""


class Section(BaseModel):
    """A part of a parameter file: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def load_yaml(path: str | Path, schema: type[Schema]) -> Schema:
    """Read a YAML file into a pydantic model, without guessing at types.

    Numbers with an exponent and no dot count as numbers for float fields: DVC writes
    `1e-05`, which YAML 1.1 reads as text. Apart from that text is no number, true is not 1
    and 2.0 is not an integer.

    Raises:
        ConfigError: the file is missing, is not YAML, gives a key twice, or a value does not
            fit. One line a problem: the key, the value found, and what is accepted.
    """
    path = Path(path)
    return validate(read_mapping(path), schema, str(path))


def validate(data: dict[str, Any], schema: type[Schema], source: str) -> Schema:
    """Return values as a pydantic model, as strictly as `load_yaml` does.

    Raises:
        ConfigError: a value does not fit; each line begins with `source`.
    """
    try:
        return _validate(data, schema)
    except ValidationError as error:
        problems = explain(error, schema)
        more = [f"{len(problems) - _MOST_SHOWN} more problems"] if len(problems) > _MOST_SHOWN else []
        raise ConfigError("\n".join(f"{source}: {line}" for line in problems[:_MOST_SHOWN] + more)) from None


def explain(error: ValidationError, schema: Any) -> list[str]:
    """Return a line for each problem: the key, the value found, and what is accepted.

    Args:
        error: of pydantic.
        schema: that was asked for, to name its keys.
    """
    return [_explain(problem, schema) for problem in _causes(error)]


def _validate(data: dict[str, Any], schema: type[Schema]) -> Schema:
    """Validate as strict JSON: lists may become tuples, but text never becomes a number."""
    try:
        return schema.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        if not _repair_floats(data, error):
            raise
    return schema.model_validate_json(json.dumps(data, default=str), strict=True)


def _causes(error: ValidationError) -> list[Mapping[str, Any]]:
    """Return the problems, without the one that a list is too short where its items were refused."""
    found: list[Mapping[str, Any]] = list(error.errors())
    inside = {problem["loc"][:-1] for problem in found if problem["loc"]}
    return [problem for problem in found if not (problem["type"] == "too_short" and problem["loc"] in inside)]


def _repair_floats(data: Any, error: ValidationError) -> bool:
    """Put numbers where text such as `1e-05` was found instead; say whether there were any."""
    found_one = False
    for problem in error.errors():
        number = _as_number(problem["input"]) if problem["type"] == "float_type" else None
        if number is not None:
            _put(data, problem["loc"], number)
            found_one = True
    return found_one


def _put(data: Any, location: Location, value: float) -> None:
    """Replace the text at a location, which may end with the name of a type in a union."""
    for key in location:
        if isinstance(data[key], str):
            data[key] = value
            return
        data = data[key]


def _as_number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys with values.

    Raises:
        ConfigError: it is missing, is not YAML, gives a key twice, or is something else.
    """
    try:
        data = _with_text_keys(_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no date, no integer
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: found {_show(data)}; accepted: keys with values")
    return data


def read_value(text: str) -> Any:
    """Read a value as it would stand in a YAML file, such as `1.0e-5`, `[to_k]` or `null`.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return _with_text_keys(_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{_show(text)}: not YAML: {_one_line(error)}") from error


def _load(text: str) -> Any:
    loader = _UniqueKeyLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_values(node, {}) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, its aliases written out")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a tree; an alias counts as what it stands for, and each node is visited once."""
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inside = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_num_values(each, known) for each in inside)
    return known[id(node)]


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without objects, and without keys that silently win over an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = next((key for key, count in keys.items() if count > 1), None)
        if twice is not None:
            problem = f"the key {twice!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _truth(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool | str:
    """Read a truth value as YAML 1.2 does, which DVC writes: there `no` is text."""
    text = str(loader.construct_scalar(node))
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Read a whole number, but none too long to be written out again."""
    value = loader.construct_yaml_int(node)
    if value.bit_length() > _MOST_BITS:
        raise ValueError(f"a whole number of more than {_MOST_BITS} bits")
    return value


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:bool", _truth)
_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def _with_text_keys(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _with_text_keys(value) for key, value in data.items()}
    return [_with_text_keys(value) for value in data] if isinstance(data, list) else data


def _explain(problem: Mapping[str, Any], schema: Any) -> str:
    """Say in one line where the problem is, what was found and what is accepted."""
    location: Location = problem["loc"]
    if problem["type"] == "json_invalid":  # such as half of a character, which no text in UTF-8 holds
        return f"not readable: {problem['ctx']['error']}"
    key = ".".join(_named(part) for part in location) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_known_keys(schema, location)}"
    if problem["type"] == "missing":
        return f"{key}: missing; it is needed"
    return f"{key}: found {_show(problem['input'])}; accepted: {_accepted(problem)}{_quoted(key, problem)}"


def _quoted(key: str, problem: Mapping[str, Any]) -> str:
    """Return how a value is written where it was taken for one of another type, as on DVC's command line."""
    value, kind = problem["input"], problem["type"]
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        text = value if isinstance(value, int) else "39593e5"  # of a float the digits that were written are lost
        return f"""; text that looks like a number stands in quotes, {key}: "{text}", as -S '{key}="{text}"'"""
    if kind in ("tuple_type", "list_type") and isinstance(value, str) and _PLAIN.fullmatch(value):
        return f", such as [{value}], with -S '{key}=[{value}]'"
    return ""


def _accepted(problem: Mapping[str, Any]) -> str:
    text = str(problem["msg"])
    for start in ("Input should be ", "Input should ", "Value error, ", "Assertion failed, "):
        text = text.removeprefix(start)
    return re.sub("^(a valid|an?) ", "", text)


def _known_keys(schema: Any, location: Location) -> str:
    section = _section_at(schema, location[:-1])
    if section is None:
        return "accepted: fewer keys"
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}accepted: {', '.join(names)}"


def _section_at(schema: Any, location: Location) -> type[BaseModel] | None:
    """Return the section that a location lies in, or None if the types don't tell."""
    for part in location:
        options = list(_models_in(schema))
        fields = options[0].model_fields if len(options) == 1 else {}
        if part in fields:
            schema = fields[str(part)].annotation
    options = list(_models_in(schema))
    return options[0] if len(options) == 1 else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections in an annotation such as `list[Section] | None`."""
    if get_origin(annotation) is None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)


def _named(part: str | int) -> str:
    """Return a part of a key as it stands in a line of text."""
    return part if isinstance(part, str) and part.isprintable() and len(part) <= 60 else _show(part).strip('"')


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= 60 else text[:57] + "...")


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))
