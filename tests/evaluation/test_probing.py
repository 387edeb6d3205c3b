import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from fast_electra.evaluation import probing
from fast_electra.evaluation.probe_observers import ProbeObserver
from fast_electra.evaluation.probing import probe
from fast_electra.evaluation.tasks import Split, make_task, sample
from fast_electra.models.classifier import load_encoder, load_task_tokenizer
from fast_electra.runs.checkpoints import load_tensors, newest_checkpoint, save_checkpoint
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import Interrupted, train
from fast_electra.training.precision import Execution
from fast_electra.training.setup import start
from tests import tiny
from tests.evaluation.test_fine_tuning import tokens_task, values_task, words_task

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)


@pytest.fixture(scope="module")
def encoder(auxiliary):
    return load_encoder(auxiliary / "model"), load_task_tokenizer(auxiliary / "model")


def test_a_probe_finds_what_a_linear_model_on_mean_hidden_states_finds(encoder):
    model, tokenizer = encoder
    task = words_task(200)

    def features(texts):
        rows = []
        for (text,) in texts:
            with torch.no_grad():
                hidden = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
            rows.append(hidden[0].mean(0).numpy())
        return np.array(rows)

    train, dev = features(task.train.texts), features(task.dev["dev"].texts)
    mean, deviation = train.mean(0), train.std(0)
    linear = LogisticRegression(C=0.003, max_iter=1_000).fit((train - mean) / deviation, task.train.labels)
    expected = np.mean(linear.predict((dev - mean) / deviation) == task.dev["dev"].labels)
    scores = probe(model, tokenizer, task)
    assert scores["dev"]["accuracy"] == pytest.approx(expected, abs=1 / 60)  # one example may sit on the border
    assert scores["dev"]["accuracy"] > 0.7
    assert scores == probe(model, tokenizer, task)


def test_values_words_and_pairs_can_be_probed(encoder):
    assert probe(*encoder, values_task())["dev"]["pearson"] > 0.5
    # 160 sentences are too few for some first weights, and these depend on Transformers' version.
    assert probe(*encoder, tokens_task(480))["dev"]["entity_f1"] > 0.8
    assert probe(*encoder, words_task(pairs=True))["dev"].keys() == {"accuracy", "matthews"}


def test_each_layer_is_probed_as_its_hidden_state_would_be(encoder):
    model, tokenizer = encoder
    task = words_task(200)

    def features(texts, layer):
        rows = []
        for (text,) in texts:
            with torch.no_grad():
                inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
                rows.append(model(**inputs, output_hidden_states=True).hidden_states[layer][0].mean(0).numpy())
        return np.array(rows)

    found = probing.probe_layers(model, tokenizer, task)
    assert len(found) == 1 + model.config.num_hidden_layers
    assert found[-1] == probe(model, tokenizer, task)
    for layer in (0, 1):
        train, dev = features(task.train.texts, layer), features(task.dev["dev"].texts, layer)
        mean, deviation = train.mean(0), train.std(0)
        linear = LogisticRegression(C=0.003, max_iter=1_000).fit((train - mean) / deviation, task.train.labels)
        expected = np.mean(linear.predict((dev - mean) / deviation) == task.dev["dev"].labels)
        assert found[layer]["dev"]["accuracy"] == pytest.approx(expected, abs=1 / 60)  # one may sit on the border
    words = probing.probe_layers(model, tokenizer, tokens_task())
    assert len(words) == len(found)
    assert words[-1] == probe(model, tokenizer, tokens_task())


def test_similarity_is_spearmans_of_the_cosine_of_two_texts_means(encoder):
    model, tokenizer = encoder
    pairs = [(f"value {i}", f"value {i} {'total ' * (i % 7)}") for i in range(40)]
    split = Split(pairs, [float(i % 7) + 0.5 for i in range(40)])
    task = make_task("sts", "regression", (), split, {"dev": split}, {}, ("pearson", "spearman"))

    def mean(text):
        with torch.no_grad():
            inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            return model(**inputs).last_hidden_state[0].mean(0).numpy()

    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in ((mean(x), mean(y)) for x, y in pairs)]
    found = probing.similarity_layers(model, tokenizer, task)
    assert len(found) == 1 + model.config.num_hidden_layers
    assert found[-1]["dev"]["spearman"] == pytest.approx(spearmanr(cosines, split.labels).statistic, abs=2e-3)
    assert probing.similarity_layers(model, tokenizer, words_task(pairs=True)) == []  # classes
    assert probing.similarity_layers(model, tokenizer, values_task()) == []  # single texts


def test_a_class_that_the_few_examples_lack_is_never_predicted(encoder):
    task = words_task(2_000)
    used = sample(task.train, 50).texts
    rare = [int(texts not in used and place > 1_900) for place, texts in enumerate(task.train.texts)]
    assert sum(rare) > 50
    task = replace(task, train=replace(task.train, labels=rare), digest="rare")
    dev = task.dev["dev"]
    scores = probe(*encoder, task, train_examples=50)
    assert scores["dev"]["accuracy"] == dev.labels.count(0) / len(dev)


def test_words_behind_the_end_of_a_text_have_the_most_common_label(encoder, monkeypatch):
    """As in fine-tuning, whatever a linear model would say of them."""
    predictions, features = {}, probing._features
    task = tokens_task()
    (text, labels) = task.dev["dev"].texts[0], task.dev["dev"].labels[0]
    rare = labels.index(1)

    def as_the_rare_word(model, encoded, padding, every_layer):
        (found,) = features(model, encoded, padding, every_layer)
        found[encoded.words < 0] = found[rare]
        return [found]

    monkeypatch.setattr(probing, "_features", as_the_rare_word)
    monkeypatch.setattr(probing, "score_splits", lambda task, found: predictions.update(found))
    long = Split([(*text, *["value"] * 2_000)], [[*labels, *[0] * 2_000]])
    probe(*encoder, replace(task, dev={"dev": long}, digest="long"))
    (found,) = predictions["dev"]
    assert (found[rare], len(found), set(found[200:])) == (1, len(text) + 2_000, {0})


def test_a_probe_reads_no_more_examples_than_it_may(encoder):
    task = words_task(200)
    full = probe(*encoder, task, train_examples=50, dev_examples=20)
    assert full["dev"]["accuracy"] * 20 == pytest.approx(round(full["dev"]["accuracy"] * 20))


def test_a_probe_draws_no_random_number_and_changes_no_weight(encoder):
    model, tokenizer = encoder
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    probe(model, tokenizer, words_task(100))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])  # noqa: NPY002
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


class Run:
    """Pre-training by the loop, with or without probes."""

    def __init__(self, shards, folder, probes: bool, say=lambda _: None):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        config = tiny.settings(shards, training__updates=9, training__log_every=1, main__dropout=0.1)
        self.parts = assemble(config, CPU)
        self.state, self.plan = start(config, self.parts, CPU)
        self.plan = replace(self.plan, checkpoint_every=3)
        self.observers = []
        if probes:
            model = self.parts.objective.models()["main"]
            tasks = [words_task(60), values_task()]
            options = {"say": say, "train_examples": 60, "dev_examples": 40}
            self.observers = [ProbeObserver(model, self.parts.tokenizer, tasks, 2, 1, folder, CPU, **options)]

    def go(self, stop_after: int | None = None):
        if checkpoint := newest_checkpoint(self.folder / "checkpoints"):
            load_tensors(checkpoint, self.state.tensors())
            self.state.restore(checkpoint.update, checkpoint.scalars, CPU.device)
        train(
            self.state,
            self.plan,
            batches=lambda update: self.parts.objective.prepare(self.parts.schedule.at(update), self.plan.seed),
            validate=lambda: {},
            save=lambda s: save_checkpoint(self.folder / "checkpoints", s.update, s.tensors(), s.scalars(), 10),
            execution=CPU,
            observers=self.observers,
            stop=lambda: self.state.update == stop_after,
        )
        return self

    def lines(self):
        return [json.loads(line) for line in (self.folder / "probes.jsonl").read_text().splitlines()]


def test_probes_leave_training_as_it_is_bit_for_bit(shards, tmp_path):
    plain = Run(shards, tmp_path / "plain", probes=False).go()
    said = []
    probed = Run(shards, tmp_path / "probed", probes=True, say=said.append)
    frozen = next(
        module for module in probed.state.objective.models()["main"].modules() if "Norm" in type(module).__name__
    )
    frozen.eval()
    probed.go()
    for first, second in zip(plain.state.tensors().values(), probed.state.tensors().values(), strict=True):
        assert torch.equal(first, second)
    model = probed.state.objective.models()["main"]
    assert model.training
    assert not frozen.training  # every module is put back into its own mode
    lines = probed.lines()
    assert [line["update"] for line in lines] == [2, 4, 6, 8, 9]  # and after the last
    assert set(lines[0]["scores"]) == {"words", "values"}
    assert set(lines[0]) == {"update", "scores", "timing"}
    assert 0 < lines[-1]["timing"]["share"] < 1
    assert len(said) == 1
    assert said[0].startswith("probes took ")


def test_a_resumed_run_has_the_probes_of_an_unbroken_one(shards, tmp_path):
    whole = Run(shards, tmp_path / "whole", probes=True).go()
    broken = Run(shards, tmp_path / "broken", probes=True)
    with pytest.raises(Interrupted):
        broken.go(stop_after=5)
    # As a kill behind update 4 would leave it: the newest checkpoint is update 3's.
    import shutil

    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "00000005")
    Run(shards, tmp_path / "broken", probes=True).go()
    strip = lambda lines: [(line["update"], line["scores"]) for line in lines]  # noqa: E731
    assert strip(broken.lines()) == strip(whole.lines())
