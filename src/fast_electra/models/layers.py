"""A model's stacks of layers: found without a table of classes, cut to the first few, disturbed by dropout.

Notable:
- a stack is an outermost `ModuleList` of modules of one class, as many as the configuration has layers: the encoder's
  of BERT, GPT-2 and Llama alike, encoder's and decoder's of T5;
- dropout here is independent of the configuration's own and of training or evaluation mode: it is a difficulty of the
  replacements (Fast-ELECTRA, section 4.3), not a regulariser;
- the noise is drawn from PyTorch's generator, which the training loop seeds by (seed, update).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from fast_electra.errors import ModelError
from fast_electra.models.attention import attention_dropping
from fast_electra.models.shapes import is_list_of_layers

_COUNTS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")


def layer_stacks(model: PreTrainedModel) -> list[nn.ModuleList]:
    """The encoder's layers, and the decoder's where there are both; none where layers are shared (ALBERT)."""
    sizes = {getattr(model.config, name, None) for name in _COUNTS}
    found: dict[str, nn.ModuleList] = {}
    for name, module in cast(nn.Module, model.base_model).named_modules():
        if any(name.startswith(f"{outer}.") for outer in found) or not isinstance(module, nn.ModuleList):
            continue
        if len(module) in sizes and len({type(layer) for layer in module}) == 1:
            found[name] = module
    return list(found.values())


def layer_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that a forward pass calls as layers, in order; those that are shared (ALBERT) are called again.

    The first stack's, or where there is none, the members of the outermost `ModuleList`s.
    """
    if stacks := layer_stacks(model):
        return list(stacks[0])
    lists = {n: m for n, m in cast(nn.Module, model.base_model).named_modules() if isinstance(m, nn.ModuleList)}
    inner = {name for name in lists if any(name.startswith(f"{outer}.") for outer in lists)}
    return [layer for name, stack in lists.items() if name not in inner for layer in stack]


def truncate(model: PreTrainedModel, layers: int) -> None:
    """Keep the first `layers` layers of each stack; a norm behind the last layer, and the head, stay.

    Raises:
        ModelError: it has fewer, or no stack of layers is found.
    """
    stacks = layer_stacks(model)
    if not stacks:
        raise ModelError(
            f"auxiliary.layers={layers}: no layers can be cut off this {model.config.model_type}; leave it out."
        )
    fewest = min(len(stack) for stack in stacks)
    if layers > fewest:
        raise ModelError(f"auxiliary.layers={layers}, but the auxiliary has {fewest}: give {fewest} or less.")
    for stack in stacks:
        del stack[layers:]
    keep_layers(model.config, layers)


def keep_layers(config: PreTrainedConfig, layers: int) -> None:
    """Set the number of layers in a configuration, and shorten its per-layer lists to it."""
    counts = {getattr(config, name, None) for name in _COUNTS} - {None}
    for name, value in list(vars(config).items()):
        if is_list_of_layers(name, value, counts):
            setattr(config, name, value[:layers])
    for name in _COUNTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, layers)


@contextmanager
def dropping(model: PreTrainedModel, dropout: float, attention: float) -> Iterator[None]:
    """Within it, the model's forward pass drops hidden states and attention weights; rates of 0 leave it as it is.

    Args:
        model: in any mode.
        dropout: rate on the first layer's input (the embeddings) and every layer's output; the others are scaled up.
        attention: share of attention weights dropped, in classes whose attention is ours.
    """

    def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if arguments:
            return (drop(arguments[0]), *arguments[1:]), named
        return arguments, named | {"hidden_states": drop(named["hidden_states"])}

    def after(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        return drop(output) if isinstance(output, Tensor) else (drop(output[0]), *output[1:])

    def drop(hidden_BSd: Tensor) -> Tensor:
        return nn.functional.dropout(hidden_BSd, dropout)

    hooks = []
    if dropout:
        for stack in layer_stacks(model):
            hooks.append(stack[0].register_forward_pre_hook(before, with_kwargs=True))
            hooks += [layer.register_forward_hook(after) for layer in stack]
    try:
        with attention_dropping(attention):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def cast_weights(model: nn.Module, dtype: Any) -> None:
    """Cast the parameters and leave the buffers: rotary frequencies rounded to bfloat16 turn far positions wrongly."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
