"""fast-electra: pre-train text encoders with a frozen auxiliary model and a falling temperature.

The names below are the public Python API (docs/python.md). Each is imported when it is first used, so importing the
package takes no time and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from fast_electra.api.corruptor import CorruptedBatch, Corruptor, FrozenAuxiliary, load_auxiliary, rtd_loss
    from fast_electra.api.pipeline import corrupt, data_build, evaluate, export, pretrain, study
    from fast_electra.api.trainer import FastElectraCallback, FastElectraCollator
    from fast_electra.config.loading import load_config
    from fast_electra.config.tree import Config
    from fast_electra.corruption.masking_kinds import RandomMasking, SpanMasking, WholeWordMasking
    from fast_electra.corruption.schedules import (
        ConstantSchedule,
        CosineSchedule,
        ExponentialSchedule,
        LinearSchedule,
        PolynomialSchedule,
        StepwiseSchedule,
    )

__all__ = [
    "Config",
    "ConstantSchedule",
    "CorruptedBatch",
    "Corruptor",
    "CosineSchedule",
    "ExponentialSchedule",
    "FastElectraCallback",
    "FastElectraCollator",
    "FrozenAuxiliary",
    "LinearSchedule",
    "PolynomialSchedule",
    "RandomMasking",
    "SpanMasking",
    "StepwiseSchedule",
    "WholeWordMasking",
    "corrupt",
    "data_build",
    "evaluate",
    "export",
    "load_auxiliary",
    "load_config",
    "pretrain",
    "rtd_loss",
    "study",
]

_MODULES = {
    "api.corruptor": ("CorruptedBatch", "Corruptor", "FrozenAuxiliary", "load_auxiliary", "rtd_loss"),
    "api.pipeline": ("corrupt", "data_build", "evaluate", "export", "pretrain", "study"),
    "api.trainer": ("FastElectraCallback", "FastElectraCollator"),
    "config.loading": ("load_config",),
    "config.tree": ("Config",),
    "corruption.masking_kinds": tuple(name for name in __all__ if name.endswith("Masking")),
    "corruption.schedules": tuple(name for name in __all__ if name.endswith("Schedule")),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, once."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
