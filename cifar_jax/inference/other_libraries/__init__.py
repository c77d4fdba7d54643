"""Weights of other libraries and repositories, converted to our names and axis order.

Reads ResNets and MobileNetV2 of torchvision, timm, kuangliu/pytorch-cifar, weiaicunzai/pytorch-cifar100,
chenyaofo/pytorch-cifar-models and akamaster/pytorch_resnet_cifar10 from safetensors files and, if PyTorch is
installed, from PyTorch files. Only tensors are loaded from those, never code.
"""

from collections.abc import Mapping

from cifar_jax import models
from cifar_jax.errors import UserError
from cifar_jax.inference import weights
from cifar_jax.inference.other_libraries.names import STEM, describe, renamed
from cifar_jax.inference.other_libraries.reading import is_other, read

__all__ = ["describe", "init_from", "is_other", "read", "renamed"]


def init_from(
    variables: Mapping, tensors: Mapping, model: str, frozen: bool = False
) -> tuple[dict, list[str]]:
    """Replaces every tensor of `variables` by that of a file, to continue training from there.

    A head is kept if it is missing in the file or has another number of classes. A stem is kept if its
    window has another size, together with the batch norm after it.

    Args:
      variables: our {"params", "batch_stats"}.
      tensors: the result of `read`.
      model: the name of our model, such as "resnet18".
      frozen: whether the backbone or its batch norm will be frozen; a new stem would stay untrained.

    Returns:
      (variables, notes): a line for each tensor that was not used or not found.

    Raises:
      UserError: the file has another network, or another stem that must be trained but is frozen.
    """
    theirs, unknown = renamed(tensors, model)
    ours = weights.flatten(variables)
    notes = [f"{name}: not used" for name in unknown]
    kernel = f"params/{STEM}/kernel"
    has_stems = kernel in theirs and "stem" in models.model_options(model)
    if has_stems and theirs[kernel].shape[:2] != ours[kernel].shape[:2]:
        theirs_size, ours_size = ("x".join(map(str, x[kernel].shape[:2])) for x in (theirs, ours))
        stem = "imagenet" if theirs_size == "7x7" else "cifar"
        sizes = f"{STEM}: {theirs_size} in the file, {ours_size} here"
        if frozen:
            raise UserError(
                f"{sizes}: a new one would stay untrained with what config.transfer freezes; set "
                f"config.model.stem={stem}, as the file has it"
            )
        notes.append(
            f"{sizes}: kept the new one and its batch norm (--config.model.stem={stem} takes the file's)"
        )
        for name in ours:
            if name.split("/")[1] in (STEM, "stem_bn"):
                theirs[name] = ours[name]
    # That the head of a segmentation network is new, `merge` says.
    missing = () if weights.is_fcn_head(ours) else sorted(ours.keys() - theirs.keys())
    for name in missing:
        if name.startswith(f"params/{models.HEAD}/"):
            theirs[name] = ours[name]
            notes.append(f"{name.removeprefix('params/')}: not in the file{weights.KEPT}")
    result, more = weights.merge(variables, theirs, describe(tensors))
    return result, notes + more
