"""Settings of models on the command line: KEY=VALUE arguments and YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uncollapse._utils.errors import FileError, InputError, ParameterError, brief, one_line


def read_settings(config: Path | None, settings: Sequence[str] | None) -> dict[str, Any]:
    """Read settings from a YAML file, and from KEY=VALUE arguments, which override it.

    Raises:
        InputError: if the file or an argument cannot be read.
    """
    from_file = {} if config is None else _read_config(config)
    return from_file | dict(_parse_setting(setting) for setting in settings or [])


def read_grid(settings: Sequence[str] | None) -> dict[str, list[Any] | str]:
    """Read KEY=V1,V2,... arguments as lists of values. Ranges such as 1e-4..1e-2 stay text.

    Raises:
        InputError: if an argument cannot be read.
    """
    return dict(_parse_values(setting) for setting in settings or [])


def _read_config(path: Path) -> dict[str, Any]:
    from uncollapse._utils.files import check_readable

    check_readable(path, "configuration file")
    try:
        content = _parse_yaml(path.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML raises errors of many types
        raise FileError(
            f"{path} is not valid YAML ({one_line(error)}): expected lines of `key: value`."
        ) from None
    if not isinstance(content, dict):
        raise FileError(f"{path} expects lines of `key: value`, got {type(content).__name__}.")
    return {key if isinstance(key, str) else brief(key): value for key, value in content.items()}


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, text = _split(setting)
    is_list = "," in text and text[0] not in "[{'\""
    return key, None if text == "None" else _parse_value(key, f"[{text}]" if is_list else text)


def _parse_values(setting: str) -> tuple[str, list[Any] | str]:
    key, text = _split(setting)
    if ".." in text:
        return key, text
    return key, [None if value == "None" else value for value in _parse_value(key, f"[{text}]")]


def _split(setting: str) -> tuple[str, str]:
    key, equals, text = setting.partition("=")
    if not (key and equals and text):
        raise ParameterError(
            f"a setting expects KEY=VALUE, got {brief(setting)}: for example inverse_lipschitz=1.5."
        )
    return key, text


def _parse_value(key: str, text: str) -> Any:
    try:
        return _parse_yaml(text)
    except Exception:  # PyYAML raises errors of many types
        raise ParameterError(
            f"the value of {key} cannot be read, got {brief(text)}: expected YAML, such as 1.5, "
            "null or [512, 512]."
        ) from None


def _parse_yaml(text: str) -> Any:
    """Parse YAML without references, since a few lines of them can expand beyond memory."""
    import yaml

    class PlainLoader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("references such as *name are not followed")
            return super().compose_node(parent, index)

    return yaml.load(text, PlainLoader)


def check_settings(given: Mapping[str, Any], model: str | None) -> None:
    """Check settings of a model, or if it depends on the data, of a VAE and of a SequenceVAE.

    Raises:
        InputError: if no model accepts them: the error of the model that has most of their names.
    """
    from uncollapse._utils.parameters import check_parameters
    from uncollapse.estimators import Estimator

    if model is not None and model not in Estimator.registry:
        raise ParameterError(
            f"--model expects one of {', '.join(Estimator.registry)}, got {model!r}."
        )
    models = [model] if model else ["VAE", "SequenceVAE"]
    errors: dict[str, InputError] = {}
    for model in models:
        try:
            check_parameters(Estimator.registry[model], given)
        except InputError as error:
            errors[model] = error
    if len(errors) == len(models):
        raise errors[
            max(
                models,
                key=lambda model: len(given.keys() & Estimator.registry[model]().get_params()),
            )
        ]
