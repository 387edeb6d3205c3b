"""The settings of a model's architecture and shape: the section `main`, and a generator's."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fast_electra.parts import Section


def with_layers(options: dict[str, Any], before: int | None, layers: int) -> dict[str, Any]:
    """The keys of a Transformers configuration for another number of layers.

    Lists with one entry per layer are cut, or repeated from their start.
    """
    return {
        name: [value[place % len(value)] for place in range(layers)]
        if is_list_of_layers(name, value, (before,))
        else value
        for name, value in options.items()
    }


def is_list_of_layers(name: str, value: Any, counts: Collection[Any]) -> bool:
    """Whether a key of a Transformers configuration has one entry per layer, for one of the `counts` of layers."""
    return isinstance(value, list) and len(value) in counts and ("layer" in name or name == "attention_window")


class ShapeConfig(Section):
    """A Transformers encoder: continued from a published model, or with fresh weights in the shape given here."""

    model: str | None = None
    """run, folder or hub name to continue from, with its shape; empty: fresh weights in the shape below"""
    architecture: str = "modernbert"
    """`model_type` of a Transformers configuration: modernbert, electra, bert, roberta, ..."""
    layers: int | None = Field(default=None, ge=1)
    """number of encoder layers"""
    hidden_size: int | None = Field(default=None, ge=1)
    """width of the hidden states and of the embeddings"""
    heads: int | None = Field(default=None, ge=1)
    """number of attention heads"""
    intermediate_size: int | None = Field(default=None, ge=1)
    """width inside the feed-forward layers"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """dropout on hidden states and attention"""
    options: dict[str, Any] = Field(default={})
    """further keys of the Transformers configuration, passed unchanged"""

    @classmethod
    def make_room(cls, below: dict[str, Any], above: Mapping[str, Any]) -> None:
        """Let lists of one entry a layer follow another number of layers."""
        layers, options = above.get("layers"), below.get("options")
        if isinstance(layers, int) and layers > 0 and isinstance(options, dict):
            below["options"] = with_layers(options, below.get("layers"), layers)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        shape = {name: getattr(self, name) for name in ("layers", "hidden_size", "heads", "intermediate_size")}
        missing = [name for name, value in shape.items() if value is None]
        if self.model is None and missing:
            raise ValueError(f"give {', '.join(missing)}, or model to continue from a published one")
        if self.model is None and shape["hidden_size"] % shape["heads"]:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be divisible by heads ({self.heads})")
        types = self.options.get("layer_types")
        if self.model is None and isinstance(types, list) and len(types) != self.layers:
            raise ValueError(
                f"options.layer_types has {len(types)} entries for layers ({self.layers}): give one per layer"
            )
        return self

    def with_layers(self, layers: int) -> Self:
        """The shape with another number of layers; lists with one entry per layer are cut or repeated."""
        options = with_layers(self.options, self.layers, layers)
        return self.model_copy(update={"layers": layers, "options": options})


class ModelConfig(ShapeConfig):
    """The model that is trained and exported."""

    embeddings: Literal["fresh", "copied", "auxiliary_plus_delta"] = "fresh"
    """token embeddings: fresh; copied from the auxiliary; or its frozen table plus a trained delta (same width)"""
    start: Literal["fresh", "auxiliary"] = "fresh"
    """auxiliary: copy every weight that the auxiliary has with the same name and shape"""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: train only the head, for example a vocabulary head on an encoder without one"""

    @classmethod
    def make_room(cls, below: dict[str, Any], above: Mapping[str, Any]) -> None:
        """Drop the options of another architecture."""
        if "architecture" in above and above["architecture"] != below.get("architecture"):
            below.pop("options", None)
        super().make_room(below, above)
