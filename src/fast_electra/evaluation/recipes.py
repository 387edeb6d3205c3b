"""Fine-tuning recipes: ELECTRA's and BERT's as published, one for small encoders, and a fast one for orderings.

Notable:
- a recipe is everything about fine-tuning but the model, the task and the seed, and goes whole into every result;
- published settings differ by the model's size, so a name stands for several recipes, chosen by the encoder's width;
- of published recipes one set of hyper-parameters serves all tasks; only the epochs of small tasks differ;
- no rate serves a small encoder on all tasks, so `small` has a few, and one is chosen on a part of train;
- where a paper and its code disagree, a comment says which is followed (docs/fine-tuning-recipes.md says more).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fast_electra.errors import ConfigError
from fast_electra.evaluation.tasks import Kind
from fast_electra.models.optimizers import AdamWOptimizer, Optimizer

Size = Literal["small", "base", "large"]


@dataclass(frozen=True)
class Recipe:
    """Everything about fine-tuning but the model, the task and the seed."""

    name: str
    learning_rate: float
    """peak, of the head; layers below have less where `layerwise_decay` is under 1"""
    epochs: int
    epochs_by_task: Mapping[str, int] = field(default_factory=dict)
    """where a task's number differs, by its name"""
    batch_size: int = 32
    max_length: int = 128
    """tokens of an example, special ones included; a model that takes fewer gets fewer"""
    train_examples: int | None = None
    """at most so many, the same ones for every model and seed; None: all"""
    layerwise_decay: float = 1.0
    """each layer's learning rate is this times that of the one above it"""
    weight_decay: float = 0.0
    """on matrices only: biases, norms and embeddings are not decayed"""
    dropout: float = 0.1
    """on hidden states, attention and the head, whatever the model was pre-trained with"""
    warmup: float = 0.1
    """share of the updates in which the learning rate rises to its peak; then it falls to 0"""
    warmup_multiplies: bool = False
    """the fall starts at the first update and the warm-up multiplies it (ELECTRA's code)"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    beta2: float = 0.999
    epsilon: float = 1e-6
    bias_correction: bool = True
    """False: Adam's averages start at zero uncorrected (ELECTRA's and BERT's code)"""
    clip: float = 1.0
    """largest norm of the whole gradient"""
    swapped: bool = False
    """tasks whose sentences have no order (MRPC, STS-B) also train on every pair swapped"""
    least_updates: int = 0
    """few examples are passed over more often, until this number of updates is reached"""

    def epochs_of(self, task: str, batches: int) -> int:
        """Passes over a task's training examples, by the number of batches in one pass."""
        return max(self.epochs_by_task.get(task, self.epochs), -(-self.least_updates // batches))

    def optimizer(self) -> Optimizer:
        """Settings of the optimizer and the learning rate's schedule."""
        return AdamWOptimizer(
            learning_rate=self.learning_rate,
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
    "electra",
    learning_rate=1e-4,
    epochs=3,
    epochs_by_task={"rte": 10, "stsb": 10},
    layerwise_decay=0.8,
    warmup_multiplies=True,
    bias_correction=False,
    swapped=True,
)
# Devlin et al. (2019), appendix A.3: 3 epochs, batches of 32, the best of 2e-5, 3e-5, 4e-5 and 5e-5. Weight
# decay and epsilon from its code, which leaves out the bias correction; with it fewer runs fail (Zhang et al., 2021).
_BERT = Recipe("bert", learning_rate=3e-5, epochs=3, weight_decay=0.01)
_PUBLISHED: Mapping[str, Mapping[Size, Recipe]] = {
    "electra": {
        "small": replace(_ELECTRA, learning_rate=3e-4),
        "base": _ELECTRA,
        "large": replace(_ELECTRA, learning_rate=5e-5, layerwise_decay=0.9),
    },
    "bert": {"small": replace(_BERT, learning_rate=5e-5), "base": _BERT, "large": replace(_BERT, learning_rate=2e-5)},
}
RECIPES = (*_PUBLISHED, "small", "fast")
SMALL_WIDTH = 512
"""the widest encoder that `small` is the default for"""

# docs/fine-tuning-recipes.md says why. 160 updates are ten epochs of 500 examples. Sentences whose words are labelled
# may be long: what is cut there counts as missed.
_SMALL = Recipe("small", 3e-4, epochs=3, least_updates=160, train_examples=10_000, layerwise_decay=0.9, dropout=0.0)
_SMALL_WORDS = replace(_SMALL, learning_rate=1e-3, max_length=256, layerwise_decay=1.0, dropout=0.1)


def _fast(hidden_size: int) -> Recipe:
    # For orderings, not for tables beside published ones. No dropout: in two passes nothing is learned by heart. One
    # rate for all widths does not do: at 4e-4, which an encoder of 128 needs, one of 384 calls all of CoLA the same.
    rate = float(f"{0.0512 / hidden_size:.2g}")
    return Recipe("fast", rate, epochs=2, train_examples=10_000, layerwise_decay=0.9, dropout=0.0)


def size_of(hidden_size: int) -> Size:
    """The size class of an encoder's width: ELECTRA's models have 256, 768 and 1,024."""
    return "small" if hidden_size < 512 else "base" if hidden_size < 1024 else "large"


def default_recipe(hidden_size: int) -> str:
    """The recipe's name where none is asked for, by the encoder's width."""
    return "small" if hidden_size <= SMALL_WIDTH else "electra"


def recipe_for(name: str, hidden_size: int, kind: Kind = "classification") -> Recipe:
    """The recipe of a name for an encoder's width and a kind of task.

    Raises:
        ConfigError: no such recipe.
    """
    match name:
        case "fast":
            return _fast(hidden_size)
        case "small":
            return _SMALL_WORDS if kind == "tokens" else _SMALL
        case _ if name in _PUBLISHED:
            return _PUBLISHED[name][size_of(hidden_size)]
    raise ConfigError(f"{name} is no fine-tuning recipe; they are {', '.join(RECIPES)}.")


def learning_rates(recipe: Recipe, kind: Kind) -> tuple[float, ...]:
    """The rates that one is chosen from on a part of train; the recipe's own where there is nothing to choose."""
    if recipe.name != "small":
        return (recipe.learning_rate,)
    return (3e-4, 1e-3) if kind == "tokens" else (1e-4, 3e-4, 1e-3)
