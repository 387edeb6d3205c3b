"""The flash kernel's documents: the kernel is replaced by a plain loop over documents, since it needs a GPU."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError
from fast_electra.models import attention
from fast_electra.models.build import build_model
from fast_electra.models.inputs import encoder_inputs, model_inputs
from fast_electra.models.layers import layer_modules
from fast_electra.models.rtd import ReplacedTokenDetector, replaced_logits
from tests.models.test_models import EAGER, ROUTED, config
from tests.tiny import batch
from tools.gpu.waits import NoWaiting

HALF = (torch.bfloat16, torch.float16)


def document_by_document(states, documents, longest, dropout, scale):
    """What the kernel computes, by its definition."""
    query, key, value = states
    assert dropout == 0.0
    starts, found = documents.starts.tolist(), []
    assert starts[0] == 0
    assert starts[-1] == len(query)
    for start, stop in pairwise(starts):
        assert 0 <= stop - start <= longest
        scores_HSS = torch.einsum("shd,thd->hst", query[start:stop], key[start:stop]) * scale
        if documents.window is not None:
            places = torch.arange(stop - start)
            scores_HSS[:, (places[:, None] - places).abs() > documents.window] = -torch.inf
        found.append(torch.einsum("hst,thd->shd", scores_HSS.softmax(-1), value[start:stop]))
    return torch.cat(found)


@pytest.fixture
def kernel(monkeypatch):
    """A flash kernel on this CPU, which computes in float32."""
    monkeypatch.setattr(attention, "_has_flash_kernel", lambda device: True)
    monkeypatch.setattr(attention, "_KERNEL_TYPES", (torch.float32,))
    monkeypatch.setattr(attention, "_flash", document_by_document)


def model_of(architecture: str):
    """A model whose attention is far from uniform."""
    model = build_model(config(architecture), "rtd", 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.ndim == 2 else 1.0)
    return model


def logits_and_gradients(model, arguments):
    model.zero_grad()
    logits = replaced_logits(model(**arguments).logits)
    logits.square().sum().backward()
    return logits.detach(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("architecture", ROUTED)
def test_documents_apart_without_a_mask_give_the_logits_and_gradients_of_the_mask(architecture, kernel):
    rows = batch(rows=3, padding=5)
    model = model_of(architecture)
    expected, gradients = logits_and_gradients(model, model_inputs(model.config, rows.ids, rows, by_document=True))
    arguments = encoder_inputs(model, rows.ids, rows, by_document=True)
    assert arguments["attention_mask"].ndim == 1
    found, ours = logits_and_gradients(model, arguments)
    # Float32 rounding of sums in another order.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert ours.keys() == gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():  # that of a key's bias is zero but for rounding
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5 * largest)
    packed = replaced_logits(model(**model_inputs(model.config, rows.ids, rows, by_document=False)).logits)
    assert float((packed - expected).detach().abs().max()) > 100 * float((found - expected).abs().max())


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_what_the_kernel_cannot_do_gets_the_mask(architecture, kernel, monkeypatch):
    rows = batch(rows=3, padding=5)
    model = model_of(architecture)
    expected = model(**model_inputs(model.config, rows.ids, rows, by_document=True)).logits
    monkeypatch.setattr(attention, "_KERNEL_TYPES", HALF)  # the model is in float32
    found = model(**encoder_inputs(model, rows.ids, rows, by_document=True)).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("architecture", EAGER)
def test_a_class_with_an_attention_of_its_own_gets_document_ids(architecture, kernel):
    rows = batch()
    model = build_model(config(architecture), "rtd", 0)
    assert encoder_inputs(model, rows.ids, rows, by_document=True)["attention_mask"].ndim == 3


def test_the_check_of_a_wrapped_model_goes_the_way_of_its_training(kernel, monkeypatch):
    model = model_of("modernbert")
    ReplacedTokenDetector(model, by_document=True)
    monkeypatch.setattr(attention, "_flash", lambda states, *_: states[0].mean(0).expand_as(states[0]))
    with pytest.raises(ConfigError, match="attention=document is not possible"):
        ReplacedTokenDetector(model, by_document=True)


def test_packed_rows_of_a_model_with_windows_need_no_mask(kernel):
    rows = batch(rows=3)
    model = model_of("modernbert")
    expected = model(**model_inputs(model.config, rows.ids, rows, by_document=False)).logits
    arguments = encoder_inputs(model, rows.ids, rows, by_document=False)
    assert arguments["attention_mask"].tolist() == [0, 32, 64, 96]
    # Float32 rounding of sums in another order.
    torch.testing.assert_close(model(**arguments).logits, expected, rtol=1e-4, atol=1e-5)
    padded = batch(rows=3, padding=5)
    assert encoder_inputs(model, padded.ids, padded, by_document=False)["attention_mask"].ndim == 2


def test_a_cpu_and_a_model_that_reads_to_the_left_alone_get_document_ids(monkeypatch):
    rows = batch()
    assert encoder_inputs(build_model(config("bert"), "rtd", 0), rows.ids, rows, True)["attention_mask"].ndim == 3
    monkeypatch.setattr(attention, "_has_flash_kernel", lambda device: True)
    assert encoder_inputs(build_model(config("bert"), "rtd", 0), rows.ids, rows, True)["attention_mask"].ndim == 1
    assert encoder_inputs(build_model(config("llama"), "rtd", 0), rows.ids, rows, True)["attention_mask"].ndim == 3


def test_starts_are_those_of_the_documents_then_the_end_and_need_no_waiting(kernel):
    rows = batch(rows=3, padding=5)
    model = build_model(config("bert"), "rtd", 0)
    with NoWaiting():
        starts = encoder_inputs(model, rows.ids, rows, by_document=True)["attention_mask"]
    assert starts.dtype == torch.int32
    # Two documents a row, and the padding of the last row: seven, in three rows of four places.
    assert starts.tolist() == [0, 17, 32, 49, 64, 81, 91, 96, 96, 96, 96, 96, 96]
    uncounted = replace(rows, documents_in_rows=None)
    assert encoder_inputs(model, rows.ids, uncounted, by_document=True)["attention_mask"].ndim == 3
    assert "attention_mask" not in encoder_inputs(model, rows.ids, batch(), by_document=False)


def test_documents_are_counted_on_the_host_and_stay_with_their_rows():
    rows = batch(rows=4, padding=5)
    made = Batch.of(rows.ids, rows.padding)
    assert made.documents_in_rows.tolist() == [1, 1, 1, 2]
    halves = made.split(2)
    assert [half.documents_in_rows.tolist() for half in halves] == [[1, 1], [1, 2]]
    with NoWaiting():
        assert halves[1].to("meta").documents_in_rows is halves[1].documents_in_rows
    assert Batch.of(rows.ids.to("meta"), rows.padding.to("meta")).documents_in_rows is None


@pytest.mark.parametrize("window", [None, 4])
def test_this_version_of_torch_has_the_kernel_and_its_gradient(window):
    query, key, value = (torch.empty(12, 2, 16, dtype=HALF[0], device="meta", requires_grad=True) for _ in range(3))
    documents = attention.Documents(torch.empty(4, dtype=torch.int32, device="meta"), window)
    found = attention._flash([query, key, value], documents, 6, 0.1, 0.25)
    assert found.shape == query.shape
    found.sum().backward()
    assert query.grad.shape == key.grad.shape == value.grad.shape == query.shape


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager_decomp_partition", marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", ["model", "layers"])
def test_documents_apart_are_compiled_once_for_any_number_of_them(part, backend, monkeypatch):
    """On the meta device, where the kernel has shapes."""
    monkeypatch.setattr(attention, "_has_flash_kernel", lambda device: True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = build_model(config("modernbert"), "rtd", 0).bfloat16().to("meta")
    for module in [model] if part == "model" else layer_modules(model):
        module.compile(backend=backend, fullgraph=True, dynamic=False)
    graphs = []
    for documents in (2, 3, 9):
        rows = replace(batch(rows=3), documents_in_rows=torch.full((3,), documents)).to("meta")
        replaced_logits(model(**encoder_inputs(model, rows.ids, rows, True)).logits).sum().backward()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert set(graphs) == {1 if part == "model" else 2}  # the first layer has no norm
