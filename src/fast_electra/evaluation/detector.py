"""Using a trained main model: the probability of each token of a text that it was replaced.

Notable:
- the Auto classes load the folder, and texts can have any length: windows overlap, and each token is scored in the
  window where it is nearest to the middle;
- weights are bfloat16 if the processor multiplies bfloat16 in hardware.

Shapes: B sequences, S positions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from fast_electra.data.batches import Batch
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import ModelError
from fast_electra.evaluation.token_scores import MaskedPrediction, Suspicion
from fast_electra.models.build import build_model
from fast_electra.models.classifier import longest_text
from fast_electra.models.inputs import longest_row
from fast_electra.models.layers import cast_weights
from fast_electra.models.loading import load_model, stored_config
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rtd import replaced_logits
from fast_electra.runs.checkpoints import checkpoint_at
from fast_electra.runs.folder import run_of_checkpoint
from fast_electra.runs.models import resolve_model
from fast_electra.training.checkpoint_models import read_model, read_tokenizer
from fast_electra.training.precision import cpu_has_bfloat16

_UNTRAINED = 10


@dataclass(frozen=True)
class SuspectToken:
    """A token of a text as a range of characters, and the probability that it was replaced."""

    start: int
    end: int
    probability: float


def detector_of(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Suspicion:
    """Return a scorer from a main model with one logit or two; its weights are cast in place.

    Args:
        model: on any device.
        dtype: of the weights; None: bfloat16 if the processor multiplies it in hardware, else float32.
    """
    cast_weights(model, dtype or (torch.bfloat16 if cpu_has_bfloat16() else torch.float32))
    return suspicion_of(model.eval())


def suspicion_of(model: PreTrainedModel) -> Suspicion:
    """Return a scorer from a main model without changing it, for a model that is being trained."""

    @torch.no_grad()  # not inference mode: a tensor that a module keeps from it cannot be used for training
    def suspicion(ids_BS: Tensor, padding_BS: Tensor) -> Tensor:
        mask = (~padding_BS).long().to(model.device) if padding_BS.any() else None
        return replaced_logits(model(input_ids=ids_BS.to(model.device), attention_mask=mask).logits).float()

    return suspicion


def untrained_detectors(config: PreTrainedConfig) -> list[Suspicion]:
    """Return scorers from ten main models with random weights from ten seeds."""
    return [detector_of(build_model(config, "rtd", seed=10_000 + number)) for number in range(_UNTRAINED)]


def masked_prediction(auxiliary: MaskedLM) -> MaskedPrediction:
    """Return a function for the log-probabilities of a masked language model at one masked position per row."""

    @torch.no_grad()
    def predict(ids_BS: Tensor, padding_BS: Tensor, positions_B: Tensor) -> Tensor:
        device = auxiliary.model.device
        batch = Batch.of(ids_BS.to(device), padding_BS.to(device))
        logits_BV = auxiliary.masked_logits(batch, batch.ids, positions_B[:, None].to(device))
        return logits_BV.float().log_softmax(-1)

    return predict


class Detector:
    """A main model and its tokenizer, from a run, a checkpoint, an exported folder or the hub."""

    def __init__(self, source: str | Path, dtype: torch.dtype | None = None, device: torch.device | None = None):
        """Load a model.

        Args:
            source: a run, RUN/checkpoints/UPDATE, a folder or a hub name.
            dtype: as in `detector_of`.
            device: of the model; None: the CPU.

        Raises:
            ModelError: the model has no RTD head.
        """
        model, self.tokenizer = _read(source)
        self.config = model.config
        self.suspicion = detector_of(model.to(device or "cpu"), dtype)  # type: ignore[arg-type]
        self.length = longest_text(model.config, self.tokenizer, longest_row(model.config) or 512)
        """tokens of a window, with special tokens"""

    def inspect(self, text: str, batch_size: int = 32) -> list[SuspectToken]:
        """Score every token of a text.

        Args:
            text: of any length; a byte-order mark and carriage returns belong to no token.
            batch_size: windows in one forward pass.

        Returns:
            the tokens in order, with their probabilities of having been replaced.
        """
        read, places = _as_trained(text)
        encoded = self.tokenizer(read, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        if not ids:
            return []
        window = self.length - 2
        stride = max(1, window // 2)
        starts = list(range(0, max(1, len(ids) - window + stride), stride))
        probabilities = torch.zeros(len(ids))
        centred = torch.full((len(ids),), float("inf"))
        cls, sep, pad = (getattr(self.tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
        for first in range(0, len(starts), batch_size):
            chosen = starts[first : first + batch_size]
            rows = [[cls, *ids[start : start + window], sep] for start in chosen]
            width = max(map(len, rows))
            batch = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
            padding = torch.arange(width)[None, :] >= torch.tensor([[len(row)] for row in rows])
            scores = self.suspicion(batch, padding).sigmoid()
            for start, row, score in zip(chosen, rows, scores, strict=True):
                count = len(row) - 2
                place = torch.arange(start, start + count)
                distance = (torch.arange(count) - (count - 1) / 2).abs()
                nearer = distance < centred[place]
                probabilities[place[nearer]] = score[1 : 1 + count][nearer]
                centred[place[nearer]] = distance[nearer]
        return [
            SuspectToken(places[start], places[end], float(probability))
            for (start, end), probability in zip(offsets, probabilities, strict=True)
        ]


def _as_trained(text: str) -> tuple[str, Sequence[int]]:
    """The text as training reads it (`data.sources`), and for each place in it the place in `text`."""
    dropped = {found.start() + 1 for found in re.finditer("\r\n", text)} | ({0} if text[:1] == "\ufeff" else set())
    places = [place for place in range(len(text) + 1) if place not in dropped] if dropped else range(len(text) + 1)
    read = text.removeprefix("\ufeff").replace("\r\n", "\n")
    return re.sub("[\ud800-\udfff]", "\ufffd", read), places


def _read(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a main model and its tokenizer."""
    run = run_of_checkpoint(Path(source))
    folder = None if run else resolve_model(source)
    if not run.config.objective.detects if run else any("ForMaskedLM" in name for name in _architectures(str(folder))):
        raise ModelError(
            f"{source} is a masked language model, not a main model: give a run trained with objective.kind="
            "fast_electra or electra."
        )
    if run:
        checkpoint = checkpoint_at(run.checkpoints, int(Path(source).name))
        return read_model(checkpoint), read_tokenizer(checkpoint)
    model = load_model(str(folder), "rtd")
    labels = getattr(model.config, "id2label", {})
    if "replaced" not in labels.values() and getattr(model.config, "model_type", "") != "electra":
        raise ModelError(
            f"{source} is not a main model, because its labels are {', '.join(sorted(labels.values()))} and not "
            "original and replaced: give a run of objective.kind=fast_electra or electra, or its export."
        )
    return model, load_tokenizer(str(folder))


def _architectures(folder: str) -> list[str]:
    is_local = (Path(folder) / "config.json").exists()
    return (stored_config(folder).architectures or []) if is_local else []
