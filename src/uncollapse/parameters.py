"""Parameters checked against the annotations of the class that takes them, so that they are described once."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from sklearn.base import BaseEstimator

from uncollapse.errors import InputError


def check_parameters(estimator: type[BaseEstimator], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """An estimator's parameters, of the annotated types, with the defaults of those that are not given.

    Args:
        estimator: its constructor's annotations are pydantic's, each with a description of what is expected.
        parameters: by name.

    Raises:
        InputError: naming the first parameter that cannot be used.
    """
    defaults = estimator().get_params(deep=False)
    unknown = next((name for name in parameters if name not in defaults), None)
    if unknown is not None:
        close = difflib.get_close_matches(unknown, defaults, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(defaults)}."
        raise InputError(f"there is no parameter {unknown!r}: {hint}")
    hints = typing.get_type_hints(estimator.__init__, include_extras=True)
    fields: dict[str, Any] = {name: (hints[name], default) for name, default in defaults.items()}
    schema: type[BaseModel] = create_model(estimator.__name__, __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
    try:
        return dict(schema(**parameters))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise InputError(f"{name} expects {schema.model_fields[name].description}, got {parameters[name]!r}.") from None
