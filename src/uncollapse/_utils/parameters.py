"""Arguments checked against the annotations of the constructor that takes them."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from uncollapse._utils.errors import ParameterError, brief


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")
    return value


NotBool = BeforeValidator(_refuse_bool)
Flag = Annotated[bool, Field(strict=True, description="true or false")]
Count = Annotated[int, NotBool, Field(ge=1, lt=2**31, description="a positive integer")]
PositiveFloat = Annotated[
    float, NotBool, Field(gt=0, allow_inf_nan=False, description="a positive finite number")
]
Natural = Annotated[int, NotBool, Field(ge=0, lt=2**31, description="an integer >= 0")]
Share = Annotated[float, NotBool, Field(gt=0, le=1, description="a share above 0 and up to 1")]
ProperShare = Annotated[float, NotBool, Field(ge=0, lt=1, description="a share from 0 to below 1")]
MAX_LAYERS = 100
Widths = Annotated[
    tuple[Count, ...],
    Field(
        min_length=1,
        max_length=MAX_LAYERS,
        description="a list of one or more positive widths, at most 100",
    ),
]

Kind = TypeVar("Kind")


def check_parameters(
    kind: type, given: Mapping[str, Any], what: str = "parameter"
) -> dict[str, Any]:
    """Return the arguments of a constructor, converted to their types, with defaults filled in.

    Args:
        kind: class with an annotated constructor.
        given: values by name.
        what: noun for an argument in messages.

    Raises:
        InputError: for the first argument that is unknown, missing or not accepted.
    """
    schema = _schema(kind)
    names = list(schema.model_fields)
    unknown = next((name for name in given if name not in schema.model_fields), None)
    if unknown is not None:
        close = difflib.get_close_matches(str(unknown), names, n=1)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else f"expected one of {', '.join(names) or '(none)'}."
        )
        raise ParameterError(f"there is no {what} {brief(unknown)}: {hint}")
    try:
        return dict(schema(**given))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        got = brief(given[name]) if name in given else "nothing: it has no default"
        field = schema.model_fields[name]
        expected = field.description or accepted_values(field.annotation)
        raise ParameterError(f"{name} expects {expected}, got {got}.") from None


@functools.cache
def _schema(kind: type) -> type[BaseModel]:
    """Return a pydantic model with a field for each argument of a constructor."""
    arguments = inspect.signature(kind).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    defaults = {argument.name: argument.default for argument in arguments if argument.kind in named}
    constructor: Any = kind.__init__  # type: ignore[misc]
    hints = typing.get_type_hints(constructor, include_extras=True) if defaults else {}
    fields: dict[str, Any] = {
        name: (hints[name], ... if default is inspect.Parameter.empty else default)
        for name, default in defaults.items()
    }
    config = ConfigDict(arbitrary_types_allowed=True)
    return create_model(kind.__name__, __config__=config, **fields)


def accepted_values(annotation: Any) -> str:
    """Describe the values that an annotation accepts, such as "a positive integer, or 'auto'"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        texts = (getattr(part, "description", None) for part in arguments[1:])
        return next((text for text in texts if text), None) or accepted_values(arguments[0])
    if origin is Literal:
        names = [*map(repr, arguments)] if len(arguments) == 1 else [*map(str, arguments)]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if origin in (Union, types.UnionType):
        return ", or ".join(map(accepted_values, arguments))
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def from_specification(
    what: str, kinds: Mapping[str, type[Kind]], spec: str | Mapping[str, Mapping[str, Any]]
) -> Kind:
    """Construct an object of one of several classes from a name or ``{name: arguments}``.

    Args:
        what: noun for such objects in messages.
        kinds: classes by name; their arguments are checked as in `check_parameters`.
        spec: name, or name and arguments.

    Raises:
        InputError: if there is no such name, or the class does not take these arguments.
    """
    name, arguments = (spec, {}) if isinstance(spec, str) else _single_item(what, spec)
    if name not in kinds:
        raise ParameterError(
            f"{what} expects one of {', '.join(map(repr, kinds))}, got {brief(name)}."
        )
    return kinds[name](
        **check_parameters(kinds[name], arguments, what=f"argument of {what} {name!r}")
    )


def _single_item(what: str, spec: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    if (
        not isinstance(spec, Mapping)
        or len(spec) != 1
        or not all(isinstance(arguments, Mapping) for arguments in spec.values())
    ):
        raise ParameterError(
            f"{what} expects a name or one {{name: {{argument: value}}}}, got {brief(spec)}."
        )
    return next(iter(spec.items()))
