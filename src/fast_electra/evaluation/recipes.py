"""Fine-tuning recipes: ELECTRA's and BERT's as published, one for small encoders, and one only for ranking.

Notable:
- a recipe is everything about fine-tuning except the model, the task and the seed, and every result holds it;
- it is a section of the configuration: a name stands for values, and every value can be given;
- published settings differ by the model's size, so a name stands for several recipes, chosen by the encoder's width;
- a published recipe has one set of hyper-parameters for all tasks; only the epochs of small tasks differ;
- no single learning rate suits a small encoder on all tasks, so `small` has several; one is chosen on a part of train;
- where a paper and its code disagree, a comment says which is followed (docs/fine-tuning-recipes.md says more).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from fast_electra.models.optimizers import AdamWOptimizer, Optimizer
from fast_electra.parts import Section

if TYPE_CHECKING:
    from fast_electra.evaluation.tasks import Kind

Size = Literal["small", "base", "large"]
RECIPES = ("electra", "bert", "small", "fast")
SMALL_WIDTH = 512
"""the widest encoder that `small` is the default for"""

Rate = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Recipe(Section):
    """Everything about fine-tuning but the model, the task and the seed."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "bs": "batch_size",
        "lr": "learning_rate",
        "max_length": "length",
        "max_seq_length": "length",
        "num_train_epochs": "epochs",
        "per_device_train_batch_size": "batch_size",
        "wd": "weight_decay",
    }

    name: Literal["auto", "electra", "bert", "small", "fast"] = "auto"
    """the recipe of the values that are not given; auto: small for encoders of a width up to 512, else electra"""
    learning_rate: Rate | Annotated[list[Rate], Field(min_length=1)] = 1e-4
    """peak, of the head; of a list, each task takes the best one on a part of train"""
    epochs: int = Field(default=3, ge=1)
    """passes over the training examples"""
    epochs_by_task: dict[str, Count] = Field(default={})
    """where a task's number differs, by the task's name"""
    batch_size: int = Field(default=32, ge=1)
    """examples of an update"""
    length: int = Field(default=128, ge=8)
    """tokens of an example, special ones included; a model that takes fewer gets fewer"""
    train_examples: int | None = Field(default=None, ge=1)
    """training examples at most, the same ones for every model and seed; empty: all"""
    layerwise_decay: float = Field(default=1.0, gt=0, le=1)
    """each layer's learning rate is this times that of the layer above it"""
    weight_decay: float = Field(default=0.0, ge=0)
    """on matrices only: biases, norms and embeddings are not decayed"""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """on hidden states, attention and the head, whatever the model was pre-trained with"""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """share of the updates in which the learning rate rises to its peak; then it falls to 0"""
    warmup_multiplies: bool = False
    """the fall starts at the first update and the warm-up multiplies it (ELECTRA's code)"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """of the learning rate after the warm-up"""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """of Adam"""
    epsilon: float = Field(default=1e-6, gt=0)
    """of Adam"""
    bias_correction: bool = True
    """false: Adam's averages start at zero uncorrected (ELECTRA's and BERT's code)"""
    clip: float = Field(default=1.0, gt=0)
    """largest norm of the whole gradient"""
    swapped: bool = False
    """tasks whose sentences have no order (MRPC, STS-B) also train on every pair swapped"""
    least_updates: int = Field(default=0, ge=0)
    """few examples are passed over more often, until this number of updates is reached"""

    @property
    def given(self) -> dict[str, Any]:
        """The values that were given, without the name."""
        return {key: getattr(self, key) for key in type(self).model_fields if key in self.model_fields_set - {"name"}}

    @property
    def rates(self) -> list[float]:
        """The learning rates that one is chosen from; one where there is nothing to choose."""
        rates = self.learning_rate if isinstance(self.learning_rate, list) else [self.learning_rate]
        return list(dict.fromkeys(rates))

    def values(self) -> dict[str, Any]:
        """All values, as results and the names of cells hold them; cells of earlier versions are found by them."""
        values = self.model_dump()
        values["max_length"] = values.pop("length")
        return values

    def completed(self, hidden_size: int, kind: "Kind" = "classification") -> "Recipe":
        """The recipe for an encoder's width and a kind of task: values that are not given are those of its name."""
        name = default_recipe(hidden_size) if self.name == "auto" else self.name
        given = dict(self.given)
        if "epochs" in given:  # the number that the user gives, for every task and however few the examples are
            given = {"epochs_by_task": {}} | given
        if given.keys() & {"epochs", "epochs_by_task"}:
            given = {"least_updates": 0} | given
        return recipe_for(name, hidden_size, kind).model_copy(update=given)

    def epochs_of(self, task: str, batches: int) -> int:
        """Passes over a task's training examples, by the number of batches in one pass."""
        return max(self.epochs_by_task.get(task, self.epochs), -(-self.least_updates // batches))

    def optimizer(self) -> Optimizer:
        """Settings of the optimizer and the learning rate's schedule."""
        return AdamWOptimizer(
            learning_rate=self.rates[0],
            beta2=self.beta2,
            epsilon=self.epsilon,
            bias_correction=self.bias_correction,
            weight_decay=self.weight_decay,
            clip=self.clip,
            schedule=self.schedule,
            warmup=self.warmup,
            warmup_multiplies=self.warmup_multiplies,
        )


# Clark et al. (2020), appendix B: rates by size, no weight decay, 10 epochs of RTE and STS-B. Their code says 1e-4 for
# small models and a weight decay of 0.01; the paper is followed. From the code alone: Adam without bias correction, the
# warm-up times the decay, swapped pairs. Not taken over: its layer-wise decay is off by one layer (google-research/
# electra#51), so that the top layer has decay² of the head's rate; here it has decay, as its author says was meant.
_ELECTRA = Recipe(
    name="electra",
    epochs_by_task={"rte": 10, "stsb": 10},
    layerwise_decay=0.8,
    warmup_multiplies=True,
    bias_correction=False,
    swapped=True,
)
_ELECTRA_LARGE = _ELECTRA.model_copy(update={"layerwise_decay": 0.9})
# Devlin et al. (2019), appendix A.3: 3 epochs, batches of 32, the best of 2e-5, 3e-5, 4e-5 and 5e-5. Weight
# decay and epsilon from its code, which leaves out the bias correction; with it fewer runs fail (Zhang et al., 2021).
_BERT = Recipe(name="bert", weight_decay=0.01)
_RATES: Mapping[str, Mapping[Size, float]] = {
    "electra": {"small": 3e-4, "base": 1e-4, "large": 5e-5},
    "bert": {"small": 5e-5, "base": 3e-5, "large": 2e-5},
}

# docs/fine-tuning-recipes.md says why. 160 updates are ten epochs of 500 examples. Sentences whose words are labelled
# may be long: what is cut there counts as missed.
_SMALL = Recipe(
    name="small",
    learning_rate=[1e-4, 3e-4, 1e-3],
    least_updates=160,
    train_examples=10_000,
    layerwise_decay=0.9,
    dropout=0.0,
)
_SMALL_WORDS = Recipe(name="small", learning_rate=[3e-4, 1e-3], least_updates=160, train_examples=10_000, length=256)


def _fast(hidden_size: int) -> Recipe:
    # For orderings, not for tables beside published ones. No dropout: in two passes nothing is learned by heart. One
    # rate for all widths does not do: at 4e-4, which an encoder of 128 needs, one of 384 calls all of CoLA the same.
    rate = float(f"{0.0512 / hidden_size:.2g}")
    return Recipe(name="fast", learning_rate=rate, epochs=2, train_examples=10_000, layerwise_decay=0.9, dropout=0.0)


def size_of(hidden_size: int) -> Size:
    """The size class of an encoder's width: ELECTRA's models have 256, 768 and 1,024."""
    return "small" if hidden_size < 512 else "base" if hidden_size < 1024 else "large"


def default_recipe(hidden_size: int) -> str:
    """The name of the recipe where none is asked for, by the encoder's width."""
    return "small" if hidden_size <= SMALL_WIDTH else "electra"


def recipe_for(name: str, hidden_size: int, kind: "Kind" = "classification") -> Recipe:
    """The recipe of one of the names `RECIPES` for an encoder's width and a kind of task."""
    if name == "fast":
        return _fast(hidden_size)
    if name == "small":
        return _SMALL_WORDS if kind == "tokens" else _SMALL
    size = size_of(hidden_size)
    recipe = (_ELECTRA_LARGE if size == "large" else _ELECTRA) if name == "electra" else _BERT
    return recipe.model_copy(update={"learning_rate": _RATES[name][size]})
