"""Arguments checked against the annotations of the constructor that takes them, so that they are
described once."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from uncollapse._utils.errors import ParameterError, brief


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")
    return value


NotBool = BeforeValidator(_no_truth_value)
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
    kind: type, parameters: Mapping[str, Any], what: str = "parameter"
) -> dict[str, Any]:
    """The arguments of a constructor, of the annotated types, with the defaults of those that are
    not given and have one.

    Args:
        kind: its constructor's annotations are pydantic's, each with a description of what is
            expected.
        parameters: by name.
        what: what an argument is called in messages.

    Raises:
        InputError: naming the first argument that cannot be used.
    """
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(kind).parameters.values()
    defaults = {argument.name: argument.default for argument in signature if argument.kind in named}
    unknown = next((name for name in parameters if name not in defaults), None)
    if unknown is not None:
        close = difflib.get_close_matches(str(unknown), defaults, n=1)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else f"expected one of {', '.join(defaults) or '(none)'}."
        )
        raise ParameterError(f"there is no {what} {brief(unknown)}: {hint}")
    hints = typing.get_type_hints(kind.__init__, include_extras=True) if defaults else {}  # type: ignore[misc]
    fields: dict[str, Any] = {
        name: (hints[name], ... if default is inspect.Parameter.empty else default)
        for name, default in defaults.items()
    }
    schema: type[BaseModel] = create_model(
        kind.__name__, __config__=ConfigDict(arbitrary_types_allowed=True), **fields
    )
    try:
        return dict(schema(**parameters))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        got = brief(parameters[name]) if name in parameters else "nothing: it has no default"
        raise ParameterError(
            f"{name} expects {schema.model_fields[name].description}, got {got}."
        ) from None


def from_specification(
    what: str, kinds: Mapping[str, type[Kind]], spec: str | Mapping[str, Mapping[str, Any]]
) -> Kind:
    """One of several kinds of thing, from its name or from ``{name: arguments}``.

    Args:
        what: such things are called in messages.
        kinds: by name; what their constructors take is checked as in `check_parameters`.
        spec: what is asked for.

    Raises:
        InputError: if there is none of that name, or it does not take these arguments.
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
    if len(spec) != 1 or not all(isinstance(arguments, Mapping) for arguments in spec.values()):
        raise ParameterError(
            f"{what} expects a name or one {{name: {{argument: value}}}}, got {brief(spec)}."
        )
    return next(iter(spec.items()))
