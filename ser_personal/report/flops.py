"""Counts floating-point operations of whatever runs under it, backward passes included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001
# where an operation's weights stand among its arguments
_FUSED = {
    torch.ops.aten._transformer_encoder_layer_fwd: (3, 5, 14, 16),  # noqa: SLF001
    torch.ops.aten._native_multi_head_attention: (5, 7),  # noqa: SLF001
}


class FlopCounter(TorchDispatchMode):
    """Sums up matrix products, convolutions and attention by torch's own formulas.

    A whole Transformer layer, which `torch.nn` runs as one operation where nothing is learnt, counts as its parts.

    torch's `FlopCounterMode` also tells modules apart, for which it hooks into autograd, and so it fails in inference
    mode; and it knows no formula of the attention that CPUs run.

    Attributes:
        flops: counted so far; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it; one that is made of others is counted as those."""
        given = dict(kwargs or {})
        packet = func.overloadpacket
        if packet not in flop_registry:
            with self:
                result = func.decompose(*args, **given)
            if result is not NotImplemented:
                return result
        out = func(*args, **given)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **given, out_val=out)
        elif packet is _ATTENTION:
            query, key, value = (each.shape for each in args[:3])
            self.flops += sdpa_flop_count(query, key, value)
        elif packet is _ATTENTION_BACKWARD:
            self.flops += sdpa_backward_flop_count(*(each.shape for each in args[:4]))
        elif packet in _FUSED:
            self.flops += _fused_flops(args[0], [args[place] for place in _FUSED[packet]])
        return out


def _fused_flops(tokens: Tensor, weights: Sequence[Tensor]) -> int:
    """Count self-attention of tokens (batch, tokens, dim) and the products of each with these weights."""
    batch, length, dim = tokens.shape
    return 2 * batch * length * sum(weight.numel() for weight in weights) + 4 * batch * length**2 * dim
