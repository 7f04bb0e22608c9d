"""All architectures, and the ways to find one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from xalign_jax.errors import UserError
from xalign_jax.interop.architectures import encoders, gpt_neox, llama
from xalign_jax.interop.mapping import Architecture
from xalign_jax.interop.settings import Settings, shown
from xalign_jax.models.rotary import RopeScaling

_BUILT_IN = (llama.ARCHITECTURE, gpt_neox.ARCHITECTURE, encoders.XLM_ROBERTA, encoders.BERT)
# By the class name, which model directories record. The order is the order of registration.
_KNOWN: dict[str, Architecture] = {architecture.config.__name__: architecture for architecture in _BUILT_IN}


def register(architecture: Architecture) -> None:
    """Let import and export know an architecture. A model type that is known already is then read by this one.

    Call this in the module that defines the configuration. Model directories name that module, so that it is imported
    wherever the model is used.
    """
    name = architecture.config.__name__
    # A module that is loaded again comes last again.
    _KNOWN.pop(name, None)
    _KNOWN[name] = architecture


def of_model_type(name: str, file: Path) -> Architecture:
    """The architecture of config.json's model_type. Raises UserError for an unknown one."""
    # Later architectures take over types of earlier ones.
    known = {kind: architecture for architecture in _KNOWN.values() for kind in architecture.model_types}
    if name not in known:
        raise UserError(
            f"{file}: model_type = {shown(name)} is not implemented; only {', '.join(known)}, and what a module of "
            "yours registers (--module)"
        )
    return known[name]


def read_config(settings: Settings, names: frozenset[str]) -> tuple[Architecture, Any]:
    """The architecture that config.json names, and our configuration of it.

    Args:
      names: of the checkpoint's tensors.

    Raises:
      UserError: the message names a setting that is missing, of another type or not implemented.
    """
    architecture = of_model_type(settings.text("model_type"), settings.file)
    try:
        config = architecture.read(settings, names)
    except UserError as error:
        # A configuration that refuses its own values knows no file, and gin adds lines to its message.
        said = str(error).splitlines()[0]
        raise UserError(said if said.startswith(str(settings.file)) else f"{settings.file}: {said}") from None
    # Refuse settings that no reader has asked for: they might change what the model computes.
    settings.finish()
    return architecture, config


def of_config(config: object) -> Architecture:
    """The architecture of a configuration, by the configuration's class."""
    return _KNOWN[type(config).__name__]


def config_from_json(values: Any) -> Any:
    """A model's configuration from the JSON that `recipe.as_json` made of it.

    Raises:
      UserError: the class belongs to no architecture, or `as_json` cannot have made the values.
    """
    classes = {cls.__name__: cls for cls in [*(a.config for a in _KNOWN.values()), RopeScaling]}
    name = values.get("class") if isinstance(values, dict) else values
    if not isinstance(name, str) or name not in classes:
        raise UserError(
            f"{str(name)[:80]}: no architecture of Hugging Face is known for this model; can its module be imported?"
        )
    # Fields of older or newer versions are left out.
    # The fields that the class has today.
    names = {field.name for field in dataclasses.fields(classes[name])}
    try:
        return classes[name](**{field: _value(value) for field, value in values.items() if field in names})
    # RuntimeError: gin's, for a value that is missing.
    except (TypeError, ValueError, RuntimeError, UserError) as error:
        raise UserError(f"the model's configuration: {' '.join(str(error).split())[:300]}") from None


def _value(value: Any) -> Any:
    """A field's value: nested configurations and tuples have other forms in JSON."""
    if isinstance(value, dict):
        return config_from_json(value)
    return tuple(value) if isinstance(value, list) else value
