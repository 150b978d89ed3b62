"""Group normalisation: as layer normalisation, for each of several groups of channels.

The channels of a vector x (C,) are cut into groups of equal size, each of which is shifted and
scaled to mean zero and variance one by itself.  One group is layer normalisation; C groups of
positions would be instance normalisation.  Channels come last here, as everywhere in this library.

The definition is all there is: no model here uses it.

Source: Wu & He, `Group Normalization` (2018).
"""

from tricycle_autograd.tensor import Tensor


def group_norm(
    x: Tensor,
    n_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Shift and scale each group of channels of each sample to mean zero and variance one.

    x             (B, ..., C), where n_groups divides C; the axes between are of one sample, as of
                  a picture, and are normalised together with the channels of a group
    weight, bias  (C,), multiplies and is added to the result; or None
    eps           is added to the variance
    returns       (B, ..., C)

    Raises ValueError for shapes that do not fit.
    """
    if x.ndim < 2 or n_groups < 1 or x.shape[-1] % n_groups:
        raise ValueError(
            f"group_norm cuts the last axis of (batch, ..., channels) into equal groups, got shape "
            f"{x.shape} and {n_groups} groups"
        )
    B, C = x.shape[0], x.shape[-1]
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != (C,):
            raise ValueError(f"group_norm needs a {name} of shape ({C},), got {parameter.shape}")
    positions = x.size // max(B * C, 1)
    groups = x.reshape(B, positions, n_groups, C // n_groups)
    centred = groups - groups.mean(axis=(1, 3), keepdims=True)
    r = ((centred * centred).mean(axis=(1, 3), keepdims=True) + eps) ** -0.5
    y = (centred * r).reshape(x.shape)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
