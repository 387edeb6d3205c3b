"""Sections of the configuration, and the parts that plug into it.

A part is one class: its settings and what it does. A contract, such as `Schedule`, is a direct subclass of `Part` and
defines the methods of its parts; a part is a subclass of a contract with a `kind`.

Notable:
- defining a part registers it: its kind and settings are then in the configuration, its messages, help and schema;
- the program calls methods of the part and never compares kinds (tests/test_parts.py);
- modules with parts import torch inside functions, so that a configuration is checked without it.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fast_electra.errors import ConfigError


class Section(BaseModel):
    """Base class of all sections; refuses unknown keys and silent conversions of types."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
    synonyms: ClassVar[Mapping[str, str]] = {}
    """of a whole tree: what other programs call a key, for the question "did you mean" """

    @classmethod
    def make_room(cls, below: dict[str, Any], above: Mapping[str, Any]) -> None:
        """Drop or change values of `below` that do not go with what `above` gives, before the two are merged."""


when_registered: list[Callable[[], object]] = []
"""functions that are called after a part was registered, to rebuild what depends on the kinds"""


class Part(Section):
    """Base class of the contracts."""

    kind: Any
    """text; a part restricts the type to its own kind"""
    kinds: ClassVar[dict[str, Any]]
    """the parts of the contract, by kind"""
    default_kind: ClassVar[str]
    """the kind of a contract if a configuration names none"""
    stays_on_device: ClassVar[bool] = False
    """whether an update with it reads nothing on the host, so that it can be recorded as a CUDA graph; not inherited"""

    @classmethod
    def can_be_recorded(cls) -> bool:
        """`stays_on_device` of this very class: what a class that inherits from it does is not known."""
        return vars(cls).get("stays_on_device", False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register a part."""
        if Part in cls.__bases__:
            cls.kinds = {}
            return
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str):
            return  # a base class of parts
        there = cls.kinds.get(kind, cls)
        if (there.__module__, there.__name__) != (cls.__module__, cls.__name__):  # else a cell of a notebook ran again
            raise ConfigError(
                f"{cls.__module__}.{cls.__name__} has the kind {kind} of {there.__module__}.{there.__name__}: "
                "give it another kind."
            )
        cls.kinds[kind] = cls
        for call in when_registered:
            call()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As the type of a field, a contract is the union of its parts."""
        parts = cls.__dict__.get("kinds")
        if not parts:
            return handler(source)
        # A function finds the kind, since it knows the default; the part then gets the value unchanged.
        choices = {kind: handler.generate_schema(part) for kind, part in parts.items()}
        return core_schema.tagged_union_schema(choices, discriminator=cls._kind_of)

    @classmethod
    def _kind_of(cls, value: Any) -> Any:
        return str(value.get("kind", cls.default_kind)) if isinstance(value, dict) else getattr(value, "kind", None)
