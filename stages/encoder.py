"""The encoders that ConVIRT is compared with: random and ImageNet initialisation."""

from __future__ import annotations

from pathlib import Path

import typer

from convirt import files
from stages._stage import PARAMS, Stage

# one by one: when DVC looks for an earlier run in its cache, it ignores keys named `size` within a
# key, and would check out an encoder of another size
READS = ["seed", "model.image.architecture", "model.image.size", "model.image.weights"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: str = typer.Argument(help="random, or imagenet (model.image.weights)."),
    params: Path = PARAMS,
) -> None:
    """Write an image encoder that was not pretrained on pairs.

    Reads, for imagenet, the weights that model.image.weights names. Writes models/encoders/NAME:
    image_encoder.safetensors and config.json.
    """
    with Stage(__file__, reads=READS, names={"name": name}, params=params) as stage:
        from convirt import image_encoder
        from convirt.errors import InputError

        image = stage.params.model.image
        if name not in ("random", "imagenet"):
            raise InputError(
                f"{params}: model.baselines", "random or imagenet", name, "correct the list"
            )
        weights = "random" if name == "random" else image.weights
        encoder, config = image_encoder.create_image_encoder(
            image.architecture, weights, image.size, stage.params.seed
        )
        stage.confirm()
        with files.fresh_directory(stage.root / "models" / "encoders" / name) as folder:
            image_encoder.save_image_encoder(encoder, config, folder)


if __name__ == "__main__":
    app()
