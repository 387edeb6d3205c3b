"""Exports for other libraries: ONNX, for inference without PyTorch, and sentence-transformers, for vectors of texts.

Notable:
- each export is loaded again and compared with the model before its folder appears;
- an ONNX model has the model's own head (`logits`) and the hidden states (`last_hidden_state`), for any number and
  length of texts;
- a sentence-transformers export has the encoder without its head; the vector of a text is the mean over its tokens,
  with length 1. Fine-tune it on pairs of texts before use: pre-training by replaced tokens does not make such vectors
  similar where texts are (docs/use.md).
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.files import staged_folder
from fast_electra.data.seals import seal_model
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.loading import stored_config
from fast_electra.publishing.card import card_for_library
from fast_electra.publishing.export import export_run, is_exported
from fast_electra.terminal import Say

Format = Literal["onnx", "sentence-transformers"]
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "sentence-transformers": ("sentence_transformers",)}
ONNX_FILE = "model.onnx"
_APART = 1e-3
"""largest difference of an output to PyTorch's: rounding makes about 1e-5 at the usual depths"""


def convert(run: Path, out: Path, to: Format, checkpoint: int | None = None, say: Say = print) -> None:
    """Write a run's main model to a new folder, in the format of another library.

    Args:
        run: the run's folder, or any folder with a Transformers model.
        out: the new folder; after an error it does not exist. If it holds the same export already, it stays as it is.
        to: the format.
        checkpoint: the update of a checkpoint; None: the finished run's model.
        say: called with one sentence at a time.

    Raises:
        ConfigError: a package is missing.
        ModelError: the library cannot convert this model, or gives other numbers.
        DataError, CheckpointError: as `export_run`.
    """
    if missing := [name for name in _PACKAGES[to] if find_spec(name) is None]:
        raise ConfigError(f"--to {to} needs {', '.join(missing)}: run `pip install 'fast-electra[{to}]'`.")
    if is_exported(out, lambda same: convert(run, same, to, checkpoint, lambda _: None)):
        return say(f"{out} holds this export already.")
    with tempfile.TemporaryDirectory() as folder:
        export_run(run, model := Path(folder) / "model", checkpoint, auxiliary=False, say=say)
        with staged_folder(out) as staged:
            (_write_onnx if to == "onnx" else _write_sentence_transformer)(model, staged)
            card = (model / "README.md").read_text(encoding="utf-8") if (model / "README.md").exists() else ""
            (staged / "README.md").write_text(card_for_library(card, to), encoding="utf-8")
            seal_model(staged)


# --- ONNX -------------------------------------------------------------------------------------------------------------


class _Outputs(nn.Module):
    """A model as a function of token ids and mask that returns a tuple, as ONNX needs it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """`logits`, if the model has a head, and `last_hidden_state`."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = found.hidden_states[-1]
        return (found.logits, states) if hasattr(found, "logits") else (states,)


def _write_onnx(source: Path, out: Path) -> None:
    config = stored_config(str(source))
    kind = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModel)
    model = kind.from_pretrained(source, config=config, attn_implementation="eager", use_safetensors=True).eval()
    outputs = _Outputs(model)
    length = 16
    inputs = _rows(model, 2, length)
    names = ["logits", "last_hidden_state"][-len(outputs(*inputs)) :]
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            program = torch.onnx.export(
                outputs,
                inputs,
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=names,
                dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
                verbose=False,
            )
            assert program is not None
            program.save(str(out / ONNX_FILE))
    except Exception as error:  # the exporter raises errors of many kinds
        raise ModelError(
            f"PyTorch cannot convert this {config.model_type} to ONNX ({_line(error)}): export it without --to."
        ) from error
    for name in ("config.json", *_tokenizer_files(source)):
        (out / name).write_bytes((source / name).read_bytes())
    _refuse_other_outputs(outputs, out / ONNX_FILE)


def _rows(model: PreTrainedModel, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Token ids and a mask, both (rows, length) int64, where the last row is padded from its middle on."""
    draw = torch.Generator().manual_seed(rows * length)
    ids = torch.randint(model.config.vocab_size, (rows, length), generator=draw)
    mask = torch.ones_like(ids)
    mask[-1, (length + 1) // 2 :] = 0 if rows > 1 else 1
    return ids, mask


@torch.no_grad()
def _refuse_other_outputs(outputs: _Outputs, file: Path) -> None:
    """Compare an ONNX file with its model, for one text and for several, short and long."""
    session = import_module("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for rows, length in ((1, 5), (3, 24)):
        ids, mask = _rows(outputs.model, rows, length)
        found: Any = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        for wanted, given in zip(outputs(ids, mask), found, strict=True):
            apart = wanted - torch.from_numpy(given)
            worst = float((apart[mask.bool()] if wanted.ndim == 3 else apart).abs().max())
            if not worst <= _APART * max(1.0, float(wanted.abs().max())):
                raise ModelError(
                    f"the ONNX model differs from PyTorch's by {worst:.1g} for {rows} texts of {length} tokens: export "
                    "it without --to."
                )


def _tokenizer_files(folder: Path) -> list[str]:
    return [name.name for name in folder.iterdir() if "token" in name.name or name.name in ("vocab.txt", "merges.txt")]


# --- sentence-transformers --------------------------------------------------------------------------------------------


def _write_sentence_transformer(source: Path, out: Path) -> None:
    library = import_module("sentence_transformers")
    modules = import_module("sentence_transformers.sentence_transformer.modules")
    stored_config(str(source))  # refuses what must not be read
    with _quiet():
        encoder = modules.Transformer(str(source))
        pooling = modules.Pooling(encoder.get_word_embedding_dimension(), pooling_mode="mean")
        model = library.SentenceTransformer(modules=[encoder, pooling, modules.Normalize()], device="cpu")
        model.save(str(out))
        again = library.SentenceTransformer(str(out), device="cpu")
        texts = ["one text", "another text, which is longer than the first"]
        before, after = (each.encode(texts, convert_to_tensor=True) for each in (model, again))
    if not torch.equal(before, after):
        raise ModelError("sentence-transformers gives other vectors after loading the export: export it without --to.")


# --- Both -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, libraries neither print nor warn."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
