"""Recipes: named settings for a kind of model, as files of what differs from params.yaml.

erasure = realera.erase(pipe, target="airplane", anchor="sun", recipe="sd15")
$ dvc exp run $(realera recipe sd15)
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from realera.settings.config import Params
from realera.settings.errors import ConfigError
from realera.settings.yaml_file import read_mapping, validate

DEFAULTS = Path(__file__).parent / "defaults"
"""What ships with the package, for those who have no project: parameters, templates, words."""

_RECIPES = DEFAULTS / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Return what a recipe sets, nested as in params.yaml.

    Args:
        recipe: one of `recipe_names`, or the path of a YAML file.

    Raises:
        ConfigError: there is none, or it holds a key or value that params.yaml does not take.
    """
    path = _path(recipe)
    values = read_mapping(path)
    merged(values, str(path))
    return values


def _path(recipe: str | Path) -> Path:
    if str(recipe) in recipe_names():
        return _RECIPES / f"{recipe}.yaml"
    if (path := Path(recipe).expanduser()).is_file():
        return path
    raise ConfigError(f"recipe: found {str(recipe)!r}; accepted: {', '.join(recipe_names())}, or a YAML file")


def merged(values: Mapping[str, Any], source: str, more: Mapping[str, Any] | None = None) -> Params:
    """Return the default parameters with other values in their place.

    Args:
        values: nested as in params.yaml.
        source: of them, for errors.
        more: {"lora.steps": 10}, in place of both.

    Raises:
        ConfigError: a key or value is not accepted.
    """
    found = _over(read_mapping(DEFAULTS / "params.yaml"), values)
    for key, value in (more or {}).items():
        found = _over(found, _nested(key, value))
    return validate(found, Params, source)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of what a recipe sets."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with the leaves of `others` in place of its own."""
    found = deepcopy(dict(values))
    for key, other in others.items():
        own = found.get(key)
        found[key] = _over(own, other) if isinstance(own, Mapping) and isinstance(other, Mapping) else other
    return found
