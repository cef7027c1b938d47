"""Networks: built by timm from a recipe, saved as safetensors with a config.json beside them."""

from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn

from .. import tensor_files
from ..errors import CheckError, UsageError, require_same
from ..files import atomic, read_json, sha256_file, write_json
from ..params import ImageParams, NetworkParams
from . import imagenet
from .imagenet import NORMALISATION
from .weights import of_imagenet

FETCHING = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


def build(
    model: str, options: dict[str, Any], stem: str, outputs: int, image: ImageParams, pretrained: bool
) -> nn.Module:
    """Build a timm network.

    `stem: low_resolution` keeps more of a small image. In an EfficientNet or MobileNetV3 the first strided block after
    the stem and the last one do not stride, as in networks for CIFAR. In a ViT the patch embedding is three strided
    convolutions (Xiao et al., NeurIPS 2021), which make patches of 8 pixels.

    Raises UsageError if timm knows no such model, refuses the options or cannot load ImageNet's weights, or if the
    model has no low-resolution stem here.
    """

    def refusal(why: str = "") -> UsageError:
        return UsageError(
            f"timm cannot build `{model}`{why}",
            where=f"model {model}, options {options}",
            expected=f"a name from timm.list_models(), options that it takes, none of {', '.join(sorted(FETCHING))}",
        )

    # A config.json may be anybody's, and these would load files or download.
    if not isinstance(model, str) or not timm.is_model(model) or FETCHING & set(options):
        raise refusal()
    kwargs: dict[str, Any] = dict(options, in_chans=image.channels, num_classes=outputs)
    if stem == "low_resolution" and model.startswith("vit"):
        backbone = ConvStem(in_chans=image.channels, channels=(16, 32, 64))
        kwargs |= {"img_size": image.size, "patch_size": 1, "embed_layer": partial(HybridEmbed, backbone=backbone)}
    here = of_imagenet(model)
    if pretrained and here.is_file():
        tensor_files.read(here, "pt", expected=f"ImageNet's weights of {model}")  # a damaged file says so
        kwargs["pretrained_cfg_overlay"] = {"file": str(here), "custom_load": False}
    try:
        network: nn.Module = timm.create_model(model, pretrained=pretrained, **kwargs)
    except OSError as error:
        raise UsageError(
            f"ImageNet weights of `{model}` cannot be had: {str(error).splitlines()[0]}",
            where=f"model {model}, init imagenet",
            expected=f"{here}, the weights in the cache of timm's hub, or a connection to it",
            hint=f"`ferdistill weights fetch {model}` where there is a connection, or use another `init`",
        ) from None
    except (RuntimeError, TypeError, ValueError) as error:
        if "loading state_dict" in str(error) and pretrained:
            raise CheckError(
                f"the weights are of another network than `{model}`: {str(error).splitlines()[1].strip()[:200]}",
                where=str(here),
                expected="a safetensors file of that model, with timm's names",
                hint=f"`ferdistill weights fetch {model}`",
            ) from None
        raise refusal(f": {error}") from None
    if pretrained:
        imagenet.fit_pixels(network, image.channels)
    if stem == "low_resolution" and not isinstance(network, VisionTransformer):
        strided = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
        if not hasattr(network, "conv_stem") or len(strided) < 3:
            raise UsageError(
                f"no low-resolution stem is known for `{model}`",
                where=f"model {model}",
                expected="an EfficientNet, MobileNetV3 or ViT",
                hint="use `stem: stock`",
            )
        for layer in (strided[1], strided[-1]):
            layer.stride = (1, 1)
    return network.to(memory_format=torch.channels_last)


def classifier_names(network: nn.Module) -> list[str]:
    """Names of the layers that map features to outputs."""
    config: Any = network.pretrained_cfg
    names = config["classifier"]
    return [names] if isinstance(names, str) else list(names)


def build_for(recipe: NetworkParams, classes: list[str], image: ImageParams) -> nn.Module:
    """The network of a recipe with its starting weights, which are of all but the classifier.

    Raises UsageError or CheckError as `build` does, or if the weights' file is missing or is of another network.
    """
    network = build(recipe.model, recipe.options, recipe.stem, len(classes), image, recipe.init == "imagenet")
    if recipe.init not in ("scratch", "imagenet"):
        expected = "a recipe's init is scratch, imagenet or a safetensors file"
        found = tensor_files.read(Path(recipe.init), "pt", expected=expected)
        head = tuple(f"{name}." for name in classifier_names(network))
        load_matching(network, found, Path(recipe.init), but=head)
    return network


def size(network: nn.Module) -> int:
    """Number of its parameters."""
    return sum(tensor.numel() for tensor in network.parameters())


def save_network(
    network: nn.Module, directory: Path, recipe: NetworkParams, classes: list[str], image: ImageParams, **facts: Any
) -> None:
    """Write model.safetensors and config.json; `facts` are recorded in the latter."""
    with atomic(directory / "model.safetensors") as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}, temporary)
    mean, std = NORMALISATION[image.channels]
    config = {
        "model": recipe.model,
        "options": recipe.options,
        "stem": recipe.stem,
        "classes": classes,
        "image": {"size": image.size, "channels": image.channels, "mean": mean, "std": std},
        **facts,
        "sha256": sha256_file(directory / "model.safetensors"),
    }
    write_json(directory / "config.json", config)


def load_network(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Read a network written by `save_network`, in eval mode, with its config.

    It takes normalised float32 (N, C, H, W) and gives logits (N, K).

    Raises UsageError or CheckError if a file is missing, or the weights are not those that the config describes.
    """
    config = read_json(directory / "config.json", "classes", "image", "sha256")
    weights = directory / "model.safetensors"
    tensors = tensor_files.read(weights, "pt", expected="a stage's network")
    require_same(
        [("digest", config["sha256"], sha256_file(weights))],
        "the weights are not those of the config.json beside them",
        where=str(weights),
        hint="restore them with `dvc checkout --force`",
    )
    try:
        image = ImageParams(size=config["image"]["size"], channels=config["image"]["channels"])
        network = build(config["model"], config["options"], config["stem"], len(config["classes"]), image, False)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckError(
            f"a config.json that describes no network: {error}",
            where=str(directory / "config.json"),
            expected="model, options, stem, classes and image, as `save_network` writes them",
            hint="restore it with `dvc checkout --force`",
        ) from None
    load_matching(network, tensors, weights)
    return network.eval(), config


def load_matching(network: nn.Module, found: dict[str, torch.Tensor], weights: Path, but: tuple[str, ...] = ()) -> None:
    """Load the tensors found in the file `weights`: all of the network's, but those whose names begin with `but`.

    Raises CheckError if one is lacking, is of another shape, or is not the network's.
    """
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(but)}
    differing = sorted(wanted.keys() ^ found.keys())
    differing += sorted(name for name in wanted.keys() & found.keys() if found[name].shape != wanted[name].shape)
    if differing:
        raise CheckError(
            f"the weights are of another architecture: {len(differing)} tensors differ, first {differing[0]}",
            where=str(weights),
            expected="the same model, options and stem as they were made with",
            hint="correct the recipe; our own starting weights are made anew with `ferdistill pretrain`",
        )
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in found.items()}, strict=False)
