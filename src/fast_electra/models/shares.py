"""Tensors of which each process holds a share, as FSDP2 cuts parameters (`DTensor`); plain tensors are whole.

Rules that work entry by entry need only the own share. Muon needs whole matrices.
"""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from fast_electra import distributed


def own_share(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, by reference; a plain tensor is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_shares_of(like: Tensor, share: Tensor) -> Tensor:
    """The tensor of which every process holds a `share`, cut as `like` is; for a plain `like`, `share` itself."""
    if not isinstance(like, DTensor):
        return share
    return DTensor.from_local(
        share, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every process; a plain tensor is returned itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(like: Tensor, whole_tensor: Tensor) -> Tensor:
    """The share of this process in a tensor that all processes have whole, cut as `like` is."""
    if not isinstance(like, DTensor):
        return whole_tensor
    mesh = like.device_mesh
    replicated = DTensor.from_local(whole_tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, like.placements).to_local()


def norm_of(shares: list[Tensor], cut: bool) -> Tensor:
    """The norm of all values of some tensors, a scalar that is the same on every process.

    Args:
        shares: this process's part of each tensor.
        cut: whether the processes hold different parts; otherwise each has the whole tensors.
    """
    norm = nn.utils.get_total_norm(shares)
    return distributed.add(norm.square()).sqrt() if cut else norm
