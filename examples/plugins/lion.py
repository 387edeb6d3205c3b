r"""An optimizer: Lion (Chen et al., 2023), the sign of a moving average of the gradient, for all weights.

fast-electra pretrain CONFIG --plugin examples/plugins/lion.py --run RUN \
        optimizer.kind=lion optimizer.learning_rate=1e-4 optimizer.beta2=0.99
"""

from typing import Literal

from fast_electra.models.optimizers import Optimizer


class LionOptimizer(Optimizer):
    """Lion for all weights. It needs a third to a tenth of AdamW's learning rate."""

    kind: Literal["lion"] = "lion"

    def owned(self, parameters, linear_maps):
        """All trained parameters, each with its number of linear maps; only these are decayed."""
        trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        return {name: linear_maps[name].parts if name in linear_maps else 0 for name in trained}

    def stepper(self, tensors, maps, dtype):
        """Lion with these settings."""
        return Lion(tensors, [self.weight_decay if count else 0.0 for count in maps], self.beta1, self.beta2)


class Lion:
    """Updates tensors; each has one moving average."""

    def __init__(self, tensors, decays, beta1, beta2):
        """Set the averages to zero."""
        self.tensors, self.decays, self.beta1, self.beta2 = tensors, decays, beta1, beta2
        self.state = {"momentum": [tensor.new_zeros(tensor.shape) for tensor in tensors]}

    def step(self, rate, skipped):
        """Update the tensors from their gradients, unless these are not finite, and clear the gradients."""
        for tensor, momentum, decay in zip(self.tensors, self.state["momentum"], self.decays, strict=True):
            if not skipped:  # on a GPU, this waits for the gradients; Muon's rule does not wait
                direction = momentum.lerp(tensor.grad, 1.0 - self.beta1).sign_()
                tensor.mul_(1.0 - rate * decay).add_(direction, alpha=-rate)
                momentum.lerp_(tensor.grad, 1.0 - self.beta2)
            tensor.grad = None
