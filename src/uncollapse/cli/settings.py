"""Settings of models on the command line: KEY=VALUE arguments and YAML files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from uncollapse._utils.errors import FileError, ParameterError, brief, one_line


def read_settings(config: Path | None, settings: Sequence[str] | None) -> dict[str, Any]:
    """Read settings from a YAML file, and from KEY=VALUE arguments, which override it."""
    from_file = {} if config is None else _read_config(config)
    return from_file | dict(_parse_setting(setting) for setting in settings or [])


def read_grid(settings: Sequence[str] | None) -> dict[str, list[Any] | str]:
    """Read KEY=V1,V2,... arguments as lists of values. Ranges such as 1e-4..1e-2 stay text."""
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
    """Check settings of a model or, where the data decide it, of a VAE and of a SequenceVAE.

    If no model accepts them, the error is that of the one that has most of their names.
    """
    from uncollapse.estimators.settings import SETTINGS
    from uncollapse.estimators.settings import check_settings as check

    if model is not None and model not in SETTINGS:
        raise ParameterError(f"--model expects one of {', '.join(SETTINGS)}, got {model!r}.")
    errors: dict[int, ParameterError] = {}
    for name in [model] if model else ["SequenceVAE", "VAE"]:
        try:
            check(name, given)
            return
        except ParameterError as error:
            errors[sum(hasattr(SETTINGS[name], key) for key in given)] = error
    raise errors[max(errors)]


def check_grid(
    given: Mapping[str, Any], grid: Mapping[str, list[Any] | str], model: str | None
) -> None:
    """Check settings and the values of a grid as in `check_settings`; of a range, its lower end."""
    values = {
        name: [_lower_end(listed)] if isinstance(listed, str) else listed
        for name, listed in grid.items()
    }
    empty = next((name for name, listed in values.items() if not listed), None)
    if empty is not None:
        raise ParameterError(f"{empty} expects one or more values, each once, got none.")
    first = {**given, **{name: listed[0] for name, listed in values.items()}}
    check_settings(first, model)
    for name, listed in values.items():
        for value in listed[1:]:
            check_settings({**first, name: value}, model)


def _lower_end(interval: str) -> Any:
    """Return the lower end of a range such as "1e2..1e3", as a whole number where it is one."""
    text = interval.partition("..")[0]
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


class HelpWithSettings(TyperCommand):
    """A command that lists the settings of all models at the end of its help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        _print_settings()


def _print_settings() -> None:
    """Print a table for each model, of the settings that are not in an earlier table."""
    from rich.console import Console
    from rich.table import Table

    from uncollapse.estimators.settings import SETTINGS, list_settings

    known, printed = {setting.name for setting in list_settings("VAE")}, set()
    for model in SETTINGS:
        settings = list_settings(model)
        missing = ", ".join(sorted(known - {setting.name for setting in settings}))
        others = "" if model == "VAE" else " (others as for VAE)"
        title = f"Settings of {model}{others}"
        table = Table("", "default", "", title=title, title_justify="left", box=None)
        for setting in settings:
            row = (setting.name, _shown(setting.default), setting.help)
            if row not in printed:
                table.add_row(*row)
                printed.add(row)
        Console().print(table, f"Not for {model}: {missing}." if missing else "", markup=False)


def _shown(default: Any) -> str:
    """Return a default as it is typed on the command line."""
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "[]"
    return f"{default:.6g}" if isinstance(default, float) else str(default)
