"""Description in words of the values that the schema allows for a key, for the error messages."""

import dataclasses
import functools
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

_SINGULARS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_PLURALS = {bool: "true or false values", int: "integers", float: "numbers", str: "strings"}
_BOUNDS = {
    "gt": "greater than {}",
    "ge": "at least {}",
    "lt": "less than {}",
    "le": "at most {}",
}


def _split(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """Separate an ``Annotated`` type from its bounds and its description."""
    bounds: dict[str, Any] = {}
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        for field in (extra for extra in extras if isinstance(extra, FieldInfo)):
            bounds |= {"description": field.description} if field.description else {}
            for item in field.metadata:
                names = [name for name in (*_BOUNDS, "min_length") if hasattr(item, name)]
                bounds |= {name: getattr(item, name) for name in names}
    return annotation, bounds


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    bare, _ = _split(annotation)
    return get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (annotation,)


def _bounded(word: str, bounds: dict[str, Any]) -> str:
    limits = [_BOUNDS[name].format(value) for name, value in bounds.items() if name in _BOUNDS]
    return f"{word} {' and '.join(limits)}" if limits else word


def allowed(annotation: Any) -> str:
    """Describe the values of a type, such as "a number at least 0 and less than 1"."""
    if len(_members(annotation)) > 1:
        return " or ".join(allowed(member) for member in _members(annotation))
    bare, bounds = _split(annotation)
    if "description" in bounds:
        return bounds["description"]
    if bare is types.NoneType:
        return "null"
    if get_origin(bare) is Literal:
        values = [str(value) for value in get_args(bare)]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if get_origin(bare) is tuple:
        return _allowed_tuple(bare, bounds)
    if get_origin(bare) is dict:
        return f"a mapping of names to {_PLURALS.get(_split(get_args(bare)[1])[0], 'sections')}"
    if dataclasses.is_dataclass(bare):
        return f"a section with the keys {', '.join(f.name for f in dataclasses.fields(bare))}"
    return _bounded(_SINGULARS[bare], bounds)


def _allowed_tuple(bare: Any, bounds: dict[str, Any]) -> str:
    items = get_args(bare)
    item, item_bounds = _split(items[0])
    each = _bounded(_PLURALS.get(item, "sections"), item_bounds)
    if get_origin(item) is Literal:
        each = f"of {', '.join(map(str, get_args(item)))}"
    if items[-1] is Ellipsis:
        return f"a list of {bounds.get('min_length', 0)} or more {each}"
    return f"a list of {len(items)} {each}"


def locate(schema: Any, loc: Sequence[str | int]) -> tuple[str, Any]:
    """Follow a pydantic error location through the schema.

    Args:
        schema: The dataclass where the location starts.
        loc: Field names, list indices and, after a tagged union, the tag.

    Returns:
        The dotted key as written on the command line, and the annotation of the value that it names. Numbers
        in a list are reported as the whole list. The annotation of an unknown key is None.
    """
    names: list[str] = []
    annotation = schema
    for index, step in enumerate(loc):
        if step in tags(annotation):
            annotation = next(member for member in _members(annotation) if step in _kind(member))
            continue
        bare, _ = _split(_present(annotation))
        if get_origin(bare) is tuple:
            item = get_args(bare)[0]
            if not dataclasses.is_dataclass(item):
                break
            annotation = item
        elif get_origin(bare) is dict:
            if loc[index + 1 : index + 2] == ("[key]",):  # of pydantic, for a wrong name
                break
            annotation = get_args(bare)[1]
        else:
            annotation = _fields(bare).get(str(step))
        names.append(str(step))
        if annotation is None:
            names += [str(rest) for rest in loc[index + 1 :]]
            break
    return ".".join(names), annotation


def _present(annotation: Any) -> Any:
    """Return the type itself or, of a type that also allows null, the other one."""
    return next(member for member in _members(annotation) if member is not types.NoneType)


def tags(annotation: Any) -> list[str]:
    """Return the values of ``kind`` by which the members of a tagged union differ."""
    kinds = [_kind(member) for member in _members(annotation)]
    return [kind for of_member in kinds for kind in of_member] if sum(map(bool, kinds)) > 1 else []


def allows_truth_values(annotation: Any) -> bool:
    """Return whether true and false are values of a type."""
    return any(_split(member)[0] in (bool, Any) for member in _members(annotation))


def names(annotation: Any) -> list[str]:
    """Return the names that a type allows: those of an enumeration, or the kinds of a tagged union."""
    literals = [_split(member)[0] for member in _members(annotation)]
    values = [value for bare in literals if get_origin(bare) is Literal for value in get_args(bare)]
    return [value for value in values if isinstance(value, str)] + tags(annotation)


def _kind(member: Any) -> tuple[str, ...]:
    return get_args(_fields(member).get("kind"))


def _fields(bare: Any) -> dict[str, Any]:
    return _type_hints(bare) if dataclasses.is_dataclass(bare) else {}


@functools.cache
def _type_hints(section: type) -> dict[str, Any]:
    """Return the annotations of a section; ``get_type_hints`` evaluates them anew at every call."""
    return get_type_hints(section, include_extras=True)


def known_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the schema and every section; of a tagged union, the keys of all members."""
    for name, annotation in _fields(schema).items():
        yield prefix + name
        for member in _members(annotation):
            yield from known_keys(_split(member)[0], f"{prefix}{name}.")


def mapping_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the schema whose value is a mapping with names of its own."""
    for name, annotation in _fields(schema).items():
        for member in _members(annotation):
            bare, _ = _split(member)
            yield from [prefix + name] if get_origin(bare) is dict else mapping_keys(bare, f"{prefix}{name}.")
